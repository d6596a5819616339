"""``dicom-node models``, as an administrator uses it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ai.bundle.files import shipped
from ai.bundle.manifest import load_reading_spec
from ai.training.chest_codes import NIH14
from dicom_node.cli import main
from dicom_node.cli.main import app
from dicom_node.cli.models import adding
from dicom_node.cli.models import app as models_app
from dicom_node.models import install
from dicom_node.models.registry import Models, find
from dicom_node.storage.spool import Spool
from tests.ai.training.test_published import Reference
from tests.models.test_models import tampered, untried, write_bundle, zipped
from tests.support.nodes import settings_for
from tests.support.programs import ROOT
from tests.support.waiting import scaled

runner = CliRunner()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "node.toml"
    file.write_text(
        '[node]\ndata_dir = "state"\n[[peers]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 1\n'
        'destination = true\n[[routes]]\nname = "chest"\nmodels = ["local_cxr"]\nto = ["pacs"]\n'
    )
    return file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "source")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the trial in a process of its own, which the test of the whole way has."""
    defaults: dict[str, Any] = install.add.__kwdefaults__
    monkeypatch.setitem(defaults, "trial", untried)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "My CheXNet v2.pth"
    torch.save(Reference(3, 14).state_dict(), file)
    yield file
    torch.set_num_threads(before)


def models(config: Path, *args: object) -> tuple[int, str, str]:
    """Exit status, standard output, and the error that the program would tell."""
    done = runner.invoke(app, ["models", *map(str, args), "--config", str(config)])
    error = done.exception
    told = str(error) if error is not None and not isinstance(error, SystemExit) else ""
    return done.exit_code, done.stdout, told


@pytest.mark.slow
def test_the_whole_way_of_a_model(config: Path, source: Path) -> None:
    def program(*args: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "dicom_node", "models", *map(str, args), "--config", str(config)]
        return subprocess.run(
            line, capture_output=True, text=True, check=False, timeout=scaled(170), stdin=subprocess.DEVNULL
        )

    archive = zipped(source, config.parent / "local.zip")
    refused = program("add", archive)
    assert refused.returncode == 1
    assert "can run any Python" in refused.stdout
    assert "This one's configuration names MONAI's own parts only." in refused.stdout
    assert refused.stderr == "dicom-node: nobody can be asked here: if what it runs (above) is trusted, say --yes\n"
    done = program("add", archive, "--yes")
    assert done.returncode == 0, done.stderr
    assert "model local_cxr 1.0.0, files " in done.stdout
    assert "routes that read with it: chest. A running node goes on as it is" in done.stdout
    (pinned,) = find(settings_for(config.parent / "state", pacs_port=1, routes=[route()])).values()
    assert pinned.faults() == []


def route() -> dict[str, Any]:
    return {"name": "chest", "models": ["local_cxr"], "to": ["pacs"]}


def test_the_question_is_asked_and_no_is_the_answer_by_default(
    config: Path, source: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    asked: list[str] = []

    def answer(text: str, *, default: bool) -> bool:
        asked.append(text)
        return default or len(asked) > 1

    monkeypatch.setattr("typer.confirm", answer)
    monkeypatch.setattr("dicom_node.cli.terminal.can_ask", lambda: True)
    code, _, told = models(config, "add", source)
    assert (code, told, asked) == (1, "nothing was installed", ["Install it?"])
    assert models(config, "add", source)[0] == 0


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["https://example.org/a.zip"], "a download needs --sha256 HEX"),
        (["http://example.org/a.zip", "--yes"], "an https address was expected"),
        (["a.zip", "--sha256", "12ab"], "64 hexadecimal digits"),
        (["none.zip", "--yes"], "cannot be read"),
    ],
)
def test_add_tells_what_it_lacks(config: Path, args: list[str], told: str) -> None:
    code, _, error = models(config, "add", *args)
    assert code == 1
    assert told in error


def test_list_and_show(config: Path, source: Path, quick: None) -> None:
    assert models(config, "add", source, "--yes")[0] == 0
    code, text, _ = models(config, "list")
    assert code == 0
    names = sorted([*shipped(), "local_cxr"])
    assert [line.split()[0] for line in text.splitlines()] == ["model", *names]
    every = {each["name"]: each for each in json.loads(models(config, "list", "--json")[1])}
    local, phantom = every["local_cxr"], every["phantom_cxr"]
    assert (local["state"], local["shipped"], local["routes"], local["fault"]) == ("current", False, ["chest"], "")
    assert (phantom["name"], phantom["shipped"], phantom["routes"]) == ("phantom_cxr", True, [])
    shown = json.loads(models(config, "show", "local_cxr", "--json")[1])
    assert shown["digest"] == local["digest"]
    assert set(shown["files"]) == {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()}
    assert shown["record"]["place"] == str(source)
    assert [output["key"] for output in shown["outputs"]] == ["nodule", "tuberculosis", "pneumothorax", "pneumonia"]
    assert shown["eval_metrics"]["images"] == 400
    text = models(config, "show", "local_cxr")[1]
    for part in ("intended use  Demonstration", "Nodule (27925004, SCT", "threshold 0.966", "model card", "takes  "):
        assert part in text
    code, _, told = models(config, "show", "other")
    assert (code, told) == (1, f"there is no model 'other'; there are: {', '.join(names)}")


def test_show_tells_what_each_operating_point_calls(config: Path) -> None:
    shown = json.loads(models(config, "show", "chest_xray", "--json")[1])
    assert shown["operating_point"] == "balanced"
    point = shown["operating_points"]["low_alarm"]
    one = point["figures"]["effusion"]
    hit, wrong = one["sensitivity"] * 0.05, (1.0 - one["specificity"]) * 0.95
    assert one["ppv"]["normal"]["0.05"] == pytest.approx(hit / (hit + wrong), abs=1e-4)
    worst = (1.0 - one["specificity_other"]) * 0.95
    assert one["ppv"]["other"]["0.05"] == pytest.approx(hit / (hit + worst), abs=1e-4)
    text = models(config, "show", "chest_xray")[1]
    assert 'looked for only where a route names it: findings = ["tuberculosis"]' in text
    assert "may be Pneumonia, Lung consolidation, Infiltrate" in text
    assert "balanced (default)" in text
    row = next(line for line in text.splitlines() if "anything" in line)
    assert f"{point['called_of_100_normal']:.0f}" in row.split()
    assert "by_source" not in text


def test_text_of_a_bundle_cannot_act_on_the_terminal(config: Path, source: Path, quick: None) -> None:
    file = source / "configs/reading.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "intended_use": "a\x1b[2Jb\rc"}))
    added = models(config, "add", source, "--yes")[1]
    for text in (added, models(config, "show", "local_cxr")[1]):
        assert r"a\x1b[2Jb\rc" in text
        assert "\x1b" not in text


def test_verify_rollback_and_remove(config: Path, source: Path, quick: None) -> None:
    newer = write_bundle(config.parent / "newer", version="2.0.0")
    for each in (source, newer):
        assert models(config, "add", each, "--yes")[0] == 0
    code, text, _ = models(config, "verify")
    assert (code, text.count("ok    model"), text.count("files as they were checked")) == (0, *[2 + len(shipped())] * 2)
    assert text.count("ok    model local_cxr") == 2
    current = Models(config.parent / "state").current("local_cxr")
    tampered(current.path / "configs/inference.json", b"{}")
    code, text, _ = models(config, "verify", "local_cxr")
    assert code == 1
    assert "FAIL  model local_cxr 2.0.0" in text
    assert "configs/inference.json: was changed after the model was checked" in text
    assert "ok    model local_cxr 1.0.0" in text
    assert "was changed" in models(config, "show", "local_cxr")[1]
    code, text, _ = models(config, "rollback", "local_cxr")
    assert code == 0
    assert "1.0.0, " in text
    assert "restart the node" in text
    code, _, told = models(config, "remove", "local_cxr")
    assert (code, "route chest of the configuration needs it" in told) == (1, True)
    assert models(config, "remove", "local_cxr", "--digest", current.digest[:12])[0] == 0
    assert [e.version for e in Models(config.parent / "state").entries("local_cxr")] == ["1.0.0"]
    code, _, told = models(config, "verify", "none")
    assert (code, "there is no model 'none'" in told) == (1, True)


def test_the_model_of_a_running_node_is_not_removed(config: Path, source: Path, quick: None) -> None:
    for each in (source, write_bundle(config.parent / "newer", version="2.0.0")):
        models(config, "add", each, "--yes")
    store = Models(config.parent / "state")
    current = store.current("local_cxr")
    spool = Spool(store.data_dir)
    spool.open()
    store.note_loaded({"local_cxr": current.pinned()})
    code, _, told = models(config, "remove", "local_cxr", "--digest", current.digest[:12])
    spool.close()
    assert (code, "the running node reads with" in told) == (1, True)
    assert models(config, "remove", "local_cxr", "--digest", current.digest[:12])[0] == 0


def test_a_folder_of_another_user_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> None:
        raise PermissionError(13, "Permission denied", "/var/lib/node/index.sqlite")

    monkeypatch.setattr(main, "app", refused)
    with pytest.raises(SystemExit, match="1"):
        main.main()
    told = capsys.readouterr().err
    assert told.startswith("dicom-node: /var/lib/node/index.sqlite: Permission denied; this runs as ")
    assert told.endswith(": run this as the user that the node runs as\n")


def test_sigterm_and_a_lost_connection_end_an_installation_as_ctrl_c_does() -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}  # the tests may be nohup's
    try:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
            with pytest.raises(KeyboardInterrupt), adding._ends_cleanly():
                signal.raise_signal(each)
            assert signal.getsignal(each) is signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with adding._ends_cleanly():
            signal.raise_signal(signal.SIGHUP)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


# --- import -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_weights_become_a_bundle_to_look_at(config: Path, weights: Path) -> None:
    out = config.parent / "made"
    codes = config.parent / "codes.json"
    codes.write_text('{"Hernia": {"value": "84089009", "scheme": "SCT", "meaning": "Hiatal hernia"}}')
    args = ("import", "densenet121", weights, "--classes", "nih14", "--normalise", "chexnet", "--thresholds", "0.2")
    code, text, told = models(config, *args, "--codes", codes, "--out", out)
    assert (code, told) == (0, "")
    assert f"dicom-node models add {out}" in text
    spec = load_reading_spec(out / "configs/reading.json")
    assert spec.name == "my_chexnet_v2"
    assert [o.name for o in spec.outputs] == [name.replace("_", " ") for name in NIH14]
    assert {o.threshold for o in spec.outputs} == {0.2}
    assert spec.outputs[-1].code.value == "84089009"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["resnet50", "W", "--classes", "a", "--normalise", "none", "--add"], "densenet121 was expected"),
        (["densenet121", "W", "--classes", "a", "--normalise", "none"], "--out FOLDER"),
        (["densenet121", "W", "--classes", "a", "--normalise", "none", "--out", "o", "--add"], "--out FOLDER"),
        (["densenet121", "W", "--classes", "a", "--normalise", "zscore", "--add"], "chexnet, torchxrayvision or none"),
        (["densenet121", "W", "--classes", "a", "--normalise", "none", "--thresholds", "x", "--add"], "numbers"),
        (["densenet121", "W", "--classes", "a,b", "--normalise", "none", "--add"], "14 outputs, but 2 classes"),
        (["densenet121", "W", "--classes", "nih14", "--normalise", "chexnet", "--name", "../x", "--add"], "'../x'"),
        (
            ["densenet121", "W", "--classes", "nih14", "--normalise", "chexnet", "--out", "/dev/null/x"],
            "cannot be written",
        ),
        (["densenet121", "W", "--classes", "nih14", "--normalise", "none", "--codes", "W", "--add"], "JSON object"),
    ],
)
def test_import_tells_what_it_lacks(config: Path, weights: Path, args: list[str], told: str) -> None:
    code, _, error = models(config, "import", *(str(weights) if each == "W" else each for each in args))
    assert code == 1
    assert told in error
    assert not (config.parent / "state" / "models" / "my_chexnet_v2").exists()


# --- docs ---------------------------------------------------------------------------------------------------------


def test_every_command_of_models_is_documented() -> None:
    text = (ROOT / "docs/how-to/models.md").read_text(encoding="utf-8")
    names = [c.name or c.callback.__name__ for c in models_app.registered_commands if c.callback]
    assert {"list", "add", "show", "verify", "remove", "rollback", "import"} <= set(names)
    for name in names:
        assert f"`dicom-node models {name}" in text


def test_every_key_of_reading_json_is_documented() -> None:
    from ai.bundle import manifest  # noqa: PLC0415 - the names of its parts are looked at, and nothing else

    text = (ROOT / "docs/reference/reading-json.md").read_text(encoding="utf-8")
    for part in (manifest.ReadingSpec, manifest.InputSpec, manifest.Output, manifest.CamSpec, manifest.DetectionSpec):
        for key in part.model_fields:
            assert f"`{key}`" in text, key
