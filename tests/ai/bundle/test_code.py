"""What a bundle runs is shown: a corpus of bundles, each of which tries to run something unseen."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai.bundle.code import code_in
from ai.bundle.files import BundleError, shipped
from ai.bundle.known import is_known
from ai.bundle.macros import resolved

PHANTOM = shipped()["phantom_cxr"]
INFERENCE = "configs/inference.json"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    shutil.copytree(PHANTOM, tmp_path / "bundle")
    for file in (tmp_path / "bundle").rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    return tmp_path / "bundle"


def change(file: Path, **entries: Any) -> None:
    whole = json.loads(file.read_bytes())
    file.write_text(json.dumps({**whole, **entries}), encoding="utf-8")


def add_transform(bundle: Path, *transforms: dict[str, Any], to: str = "preprocessing", **entries: Any) -> None:
    whole = json.loads((bundle / INFERENCE).read_bytes())
    composed = whole.get(to) or {"_target_": "Compose", "transforms": []}
    composed["transforms"] = [*composed["transforms"], *transforms]
    change(bundle / INFERENCE, **{to: composed}, **entries)


def network(bundle: Path, **arguments: Any) -> None:
    change(bundle / INFERENCE, network_def=arguments)


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def numpy_pickle(bundle: Path) -> None:
    """A data set that is made at once calls a reader that unpickles."""
    np.save(bundle / "models/x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    read = {"_target_": "CacheDataset", "data": ["models/x.npy"], "transform": {"_target_": "LoadImage"}}
    add_transform(bundle, {"_target_": "Lambda", "func": "@cache"}, cache=read)


def macro_of_a_file_whose_name_is_in_capitals(bundle: Path) -> None:
    write(bundle / "docs/X.JSON", {"key": {"_target_": "os.system", "command": "true"}})
    add_transform(bundle, "%docs/X.JSON#key")  # type: ignore[arg-type]


def macro_of_a_macro(bundle: Path) -> None:
    write(bundle / "docs/a.txt.yaml", {"key": "%b::key"})
    change(bundle / INFERENCE, one="%two", two={"_target_": "%three"}, three="subprocess.run", inferer="%one")


def a_pickle_among_the_files(bundle: Path) -> None:
    (bundle / "models/extra.pkl").write_bytes(pickle.dumps({}))


def a_module_in_capitals(bundle: Path) -> None:
    (bundle / "scripts").mkdir()
    (bundle / "scripts/net.PY").write_text("pass")


# What tries to run something unseen, and what must stand in the list (file and key).
CORPUS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "reader": (
        lambda b: add_transform(b, {"_target_": "LoadImaged", "keys": "image", "reader": "os.system"}),
        "reader: looks up os.system",
    ),
    "reader that is a builtin": (
        lambda b: add_transform(b, {"_target_": "LoadImaged", "keys": "image", "reader": "eval"}),
        "reader: looks up eval",
    ),
    "reader in a list": (
        lambda b: add_transform(b, {"_target_": "LoadImaged", "keys": "image", "reader": ["ITKReader", "exec"]}),
        "reader[1]: looks up exec",
    ),
    "reader by reference": (
        lambda b: add_transform(b, {"_target_": "LoadImaged", "keys": "image", "reader": "@name"}, name="exec"),
        "reader: looks up @name",
    ),
    "reader by a chain of references": (
        lambda b: add_transform(
            b, {"_target_": "LoadImaged", "keys": "image", "reader": "@a::0"}, a=["@b"], b="os.system"
        ),
        "reader: looks up @a::0",
    ),
    "array reader": (
        lambda b: add_transform(b, {"_target_": "monai.transforms.io.array.LoadImage", "reader": "os.system"}),
        "_target_: calls monai.transforms.io.array.LoadImage",
    ),
    "writer": (
        lambda b: add_transform(b, {"_target_": "SaveImaged", "keys": "pred", "writer": "subprocess.call"}),
        "writer: looks up subprocess.call",
    ),
    "merger": (
        lambda b: change(b / INFERENCE, inferer={"_target_": "PatchInferer", "merger_cls": "os.system"}),
        "inferer.merger_cls: looks up os.system",
    ),
    "backbone": (
        lambda b: network(b, _target_="FlexibleUNet", in_channels=1, out_channels=2, backbone="scripts.evil.Net"),
        "network_def.backbone: looks up scripts.evil.Net",
    ),
    "any other argument": (
        lambda b: network(b, _target_="UNet", act="os.system"),
        "network_def.act: names os.system",
    ),
    "debugger": (
        lambda b: network(b, _target_="UNet", _mode_="debug"),
        "network_def._mode_: looks up debug",
    ),
    "builtin": (lambda b: network(b, _target_="eval"), "network_def._target_: calls eval"),
    "target by reference": (lambda b: network(b, _target_="@n", n=1), "network_def._target_: calls @n"),
    "a program of MONAI": (
        lambda b: network(b, _target_="ConfigWorkflow", config_file="x.json"),
        "network_def._target_: calls ConfigWorkflow",
    ),
    "what a module imports": (
        lambda b: network(b, _target_="monai.transforms.utils.Path"),
        "network_def._target_: calls monai.transforms.utils.Path",
    ),
    "another library's transforms": (
        lambda b: add_transform(b, {"_target_": "TorchVisiond", "keys": "image", "name": "Compose"}),
        "_target_: calls TorchVisiond",
    ),
    "data set that unpickles": (numpy_pickle, "cache._target_: calls CacheDataset"),
    "macro out of the bundle": (
        lambda b: add_transform(b, "%/etc/x.JSON#key"),  # type: ignore[arg-type]
        "the macro '%/etc/x.JSON#key' names a file that is not in the bundle",
    ),
    "macro out by dots": (
        lambda b: add_transform(b, "%../x.json::key"),  # type: ignore[arg-type]
        "the macro '%../x.json::key' names a file that is not in the bundle",
    ),
    "macro into itself": (
        lambda b: change(b / INFERENCE, a="%b", b="%a"),
        "leads into itself",
    ),
    "macro that grows": (
        lambda b: change(b / INFERENCE, a={"x": "%a", "y": "%a"}),
        "leads into itself",
    ),
    "file in capitals": (macro_of_a_file_whose_name_is_in_capitals, "docs/X.JSON: key._target_: calls os.system"),
    "macro of a macro": (macro_of_a_macro, "inferer._target_: calls subprocess.run"),
    "metadata": (
        lambda b: change(b / "configs/metadata.json", description="$import antigravity"),
        "configs/metadata.json: description: runs $import antigravity",
    ),
    "override": (
        lambda b: change(b / "configs/reading.json", override={"network_def#_target_": "os.system"}),
        f"{INFERENCE}: network_def._target_: calls os.system",
    ),
    "override of a reader": (
        lambda b: change(b / "configs/reading.json", override={"preprocessing": {"_target_": "X", "reader": "exec"}}),
        f"{INFERENCE}: preprocessing.reader: looks up exec",
    ),
    "expression": (lambda b: change(b / INFERENCE, inferer="$__import__('os')"), "inferer: runs $__import__('os')"),
    "import of more": (lambda b: change(b / INFERENCE, imports=["$import torch, os"]), "runs $import torch, os"),
    "import of a part": (
        lambda b: change(b / INFERENCE, imports=["$import monai.bundle"]),
        "runs $import monai.bundle",
    ),
    "pickle": (a_pickle_among_the_files, "models/extra.pkl: data that can hold a program"),
    "program in capitals": (a_module_in_capitals, "scripts/net.PY: a program that the configuration can use"),
}


@pytest.mark.parametrize("name", CORPUS)
def test_nothing_runs_unseen(bundle: Path, name: str) -> None:
    change_it, listed = CORPUS[name]
    assert code_in(bundle) == []
    change_it(bundle)
    found = code_in(bundle)
    assert any(listed in line for line in found), found


def test_an_ordinary_bundle_has_nothing_to_show(bundle: Path) -> None:
    add_transform(bundle, {"_target_": "LoadImaged", "keys": "image", "reader": "ITKReader"}, size=[64, 64])
    add_transform(bundle, {"_target_": "Resized", "keys": "image", "spatial_size": "@size", "mode": "bilinear"})
    change(
        bundle / INFERENCE,
        inferer={"_target_": "SlidingWindowInferer", "roi_size": "%size"},
        handlers=[{"_target_": "StatsHandler"}],
        evaluator={"_target_": "SupervisedEvaluator", "inferer": "@inferer"},
        dataset={"_target_": "CacheDataset", "data": "@data"},
        postprocessing={"_target_": "Compose", "transforms": [{"_target_": "SaveImaged", "output_ext": ".nii.gz"}]},
        description="torch is used. See www.example.org",
    )
    assert code_in(bundle) == []


@pytest.mark.parametrize("built", [True, False])
def test_parts_for_training_are_known_where_they_are_not_built(*, built: bool) -> None:
    assert is_known("monai.data.CacheDataset", runs=built) is not built
    assert is_known("monai.engines.SupervisedEvaluator", runs=built) is not built
    assert is_known("monai.bundle.ConfigParser", runs=built) is False
    assert is_known("monai.transforms.LoadImaged", runs=built)
    assert is_known("LoadImageD", runs=built)


def test_macros_are_what_monai_takes_them_for(tmp_path: Path) -> None:
    write(tmp_path / "other.json", {"net": {"channels": [1, 2]}})
    config = {
        "a": {"b": [10, 20], "same": "%#b#1", "above": "%##c"},
        "c": 30,
        "other": "%other.json::net::channels::0",
        "whole": "%other.json",
        "text": "50 %",
    }
    assert resolved(config, tmp_path, tmp_path / "x.json") == {
        "a": {"b": [10, 20], "same": 20, "above": 30},
        "c": 30,
        "other": 1,
        "whole": {"net": {"channels": [1, 2]}},
        "text": "50 %",
    }


def test_macros_agree_with_monai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai.bundle import ConfigParser  # noqa: PLC0415 - seconds

    write(tmp_path / "other.json", {"net": {"channels": [1, 2]}})
    config = {"a": {"b": [10, 20], "same": "%#b#1"}, "other": "%other.json::net", "again": "%a"}
    mine = resolved(json.loads(json.dumps(config)), tmp_path, tmp_path / "x.json")
    monkeypatch.chdir(tmp_path)  # where MONAI begins a relative path
    parser = ConfigParser(json.loads(json.dumps(config)))
    parser.parse()
    assert {key: parser.get(key) for key in config} == mine


def test_a_symbolic_link_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    write(tmp_path / "out.json", {"key": 1})
    (tmp_path / "bundle/in.json").symlink_to(tmp_path / "out.json")
    with pytest.raises(BundleError, match="names a file that is not in the bundle"):
        resolved({"a": "%in.json::key"}, tmp_path / "bundle", tmp_path / "x.json")
