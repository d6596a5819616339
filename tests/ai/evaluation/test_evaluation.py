"""A model evaluated on labelled images: what counts, what is passed over, and what the report says and does not say."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from ai.bundle.files import describe, file_digests, shipped
from ai.contract import HeatMap, ReadingError
from ai.evaluation import metrics, plots
from ai.evaluation.calls import called
from ai.evaluation.csv_table import TableError
from ai.evaluation.measure import class_figures
from ai.evaluation.pictures import load_picture
from ai.evaluation.reading import Answer, Unread, read_rows
from ai.evaluation.tables import LabelledBox, Labels, NamedOutput, Row, read_labels
from ai.images.radiograph import display_uint8, load_radiograph
from ai.inference.answers import MarkedBox
from ai.inference.bundle_model import BundleModel, load
from ai.phantom.dicom import to_dicom
from ai.phantom.draw import FINDING_KEYS, draw_phantom
from dicom_node.cli.main import app
from dicom_node.cli.models import evaluating
from dicom_node.errors import NodeError
from dicom_node.models.records import Record
from dicom_node.models.registry import Models
from tests.support.programs import ROOT

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OUTPUTS = [NamedOutput("nodule", "Nodule"), NamedOutput("pleural", "Pleural thickening")]
SPEC = describe(shipped()["phantom_cxr"]).spec
CHEST = describe(shipped()["chest_xray"]).spec
KEYS = [output.key for output in SPEC.outputs]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As many threads as cores are slower than one where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- the whole way --------------------------------------------------------------------------------------------------


def png(path: Path, grey: np.ndarray, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).convert(mode).save(path)
    return path


def table(path: Path, rows: Sequence[Sequence[object]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labels.csv and images of every kind, two of a patient; and rows of all that can go wrong."""
    folder = tmp_path_factory.mktemp("phantoms")
    rows: list[list[object]] = [
        ["File", "patient_id", "Sex", "age", "site", "normal", *map(str.title, FINDING_KEYS), "boxes"]
    ]
    mixes: list[tuple[str, ...]] = [("pneumothorax",), (), ("nodule", "pneumonia"), (), ("pneumonia",), ("nodule",)]
    for seed, mix in enumerate(mixes):
        phantom = draw_phantom(seed, 288, 240, findings=mix, photometric="MONOCHROME2")
        data = to_dicom(phantom, seed=seed, now=NOW, patient_id=f"SECRET-{seed}", patient_name=f"HIDDEN^{seed}")
        name = f"images/{seed}.dcm"
        (folder / "images").mkdir(exist_ok=True)
        data.save_as(folder / name, enforce_file_format=True)
        if seed % 3:  # the others stay DICOM
            grey = display_uint8(load_radiograph(folder / name))
            (folder / name).unlink()
            name = f"images/{seed}.{'png' if seed % 3 == 1 else 'jpg'}"
            Image.fromarray(grey).save(folder / name, **({} if seed % 3 == 1 else {"quality": 95}))
        boxes = "|".join(f"{f.key}:{f.left},{f.top},{f.right - f.left},{f.bottom - f.top}" for f in phantom.findings)
        # Two labels are wrong, so that there is something to miss and something to call falsely.
        wrong = {3: "pneumothorax", 4: "pneumonia"}.get(seed)
        labels = [int((key in mix) != (key == wrong)) for key in FINDING_KEYS]
        rows.append(
            [name, f"SECRET-{seed // 2}", "FM"[seed % 2], 20 + 10 * seed, "ab"[seed // 3], int(not mix), *labels, boxes]
        )
    blank = ["", "", "", "", "", *[""] * len(FINDING_KEYS), ""]
    (folder / "images/half.png").write_bytes((folder / "images/1.png").read_bytes()[:3000])
    for name in ("<script>alert(1)</script>.png", "=cmd|'/c calc'!A1", "../labels.csv", "images/half.png"):
        rows.append([name, *blank])
    table(folder / "labels.csv", rows, encoding="utf-8-sig")
    return folder


def evaluate(*args: object) -> Any:
    return CliRunner().invoke(app, ["models", "evaluate", *map(str, args)])


@pytest.fixture(scope="module")
def evaluated(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("report")
    done = evaluate(
        *("phantom_cxr", "--images", phantoms / "images", "--labels", phantoms / "labels.csv", "--report", out),
        *("--where", "patient_id=SECRET-0", "--where", "patient_id=SECRET-1", "--where", "patient_id=SECRET-2"),
        *("--where", "patient_id="),
    )
    assert done.exit_code == 0, done.output
    return out, done


@pytest.mark.slow
def test_figures_are_those_of_the_answers_and_the_labels(evaluated: tuple[Path, Any], phantoms: Path) -> None:
    found = json.loads((evaluated[0] / "evaluation.json").read_text(encoding="utf-8"))
    assert (found["kind"], found["format"]) == ("dicom-node evaluation", 1)
    assert found["model"]["digest"] == describe(shipped()["phantom_cxr"]).identity.digest
    assert found["images"]["used"] == 6
    assert found["images"]["patients"] == 3
    assert [one["key"] for one in found["classes"]] == KEYS
    with (phantoms / "labels.csv").open(encoding="utf-8-sig") as file:
        patients = {row["File"]: row["patient_id"] for row in csv.DictReader(file)}
    for one in found["classes"]:
        key = one["key"]
        scores = [answer["scores"][key] for answer in found["answers"]]
        truth = [answer["labels"][key] for answer in found["answers"]]
        if key == "tuberculosis":
            assert one["positives"] == 0
            assert one["auc"] == {"value": None, "low": None, "high": None}
            assert not (evaluated[0] / f"{key}.png").exists()
            continue
        groups = [patients[answer["file"]] for answer in found["answers"]]
        low, high = metrics.bootstrap_auc(scores, truth, groups)
        assert one["auc"] == {"value": metrics.auc(scores, truth), "low": low, "high": high}
        counted = metrics.confusion(scores, truth, one["threshold"])
        assert one["confusion"]["true_positive"] == counted.true_positive
        assert one["specificity"]["of"] == one["negatives"] == truth.count(0)
        assert one["average_precision"] == pytest.approx(metrics.average_precision(scores, truth), abs=1e-9)
        with Image.open(evaluated[0] / f"{key}.png") as picture:
            assert picture.format == "PNG"
            assert picture.width > 900


@pytest.mark.slow
def test_the_demonstration_model_finds_what_was_drawn_and_where(evaluated: tuple[Path, Any]) -> None:
    found = json.loads((evaluated[0] / "evaluation.json").read_text(encoding="utf-8"))
    boxes = {one["key"]: one["boxes"] for one in found["classes"]}
    assert boxes["tuberculosis"] is None
    assert sum(one["images"] for one in boxes.values() if one) == 5
    assert sum(one["inside"]["count"] for one in boxes.values() if one) >= 4
    assert all(one["by_chance"] < 0.2 for one in boxes.values() if one)


def test_what_cannot_be_used_is_named_with_the_reason(evaluated: tuple[Path, Any]) -> None:
    folder, done = evaluated
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    reasons = {one["file"]: one["reason"] for one in found["images"]["passed_over"]}
    assert reasons == {
        "<script>alert(1)</script>.png": "is not in the folder of the images",
        "=cmd|'/c calc'!A1": "is not in the folder of the images",
        "../labels.csv": "leads outside the folder of the images",
        "images/half.png": "is damaged or no PNG or JPEG that can be decoded (OSError)",
    }
    assert found["images"]["rows_in_table"] == 10
    assert found["columns"]["not_used"] == ["site", "normal"]
    assert "passed over: 4" in done.output
    assert "../labels.csv: leads outside the folder of the images" in done.output


def test_the_page_stands_alone_and_shows_text_as_text(evaluated: tuple[Path, Any]) -> None:
    page = (evaluated[0] / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.png" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    sources = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')>\s]{1,12})", page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_no_patient_is_named_anywhere(evaluated: tuple[Path, Any]) -> None:
    folder, done = evaluated
    written = b"".join(file.read_bytes() for file in folder.iterdir())
    for secret in ("SECRET", "HIDDEN"):
        assert secret.encode() not in written
        assert secret not in done.output
    assert json.loads((folder / "evaluation.json").read_text())["options"]["where"][0] == "patient_id=(not shown)"


def test_the_model_s_worst_cases_are_shown_as_pictures(evaluated: tuple[Path, Any]) -> None:
    found = json.loads((evaluated[0] / "evaluation.json").read_text(encoding="utf-8"))
    page = (evaluated[0] / "report.html").read_text(encoding="utf-8")
    worst = {one["key"]: one["worst"] for one in found["classes"]}
    assert "images/3.dcm" in [case["file"] for case in worst["pneumothorax"]["missed"]]
    assert "images/4.png" in [case["file"] for case in worst["pneumonia"]["false_alarms"]]
    count = sum(len(cases) for one in worst.values() for cases in one.values())
    assert page.count("data:image/jpeg") == count >= 2
    for one in found["classes"]:
        assert len(one["worst"]["missed"]) == min(one["confusion"]["false_negative"], 4)
        assert len(one["worst"]["false_alarms"]) == min(one["confusion"]["false_positive"], 4)


@pytest.mark.slow
def test_a_part_of_the_images_within_a_source(phantoms: Path, tmp_path: Path) -> None:
    done = evaluate(
        *("phantom_cxr", "--images", phantoms / "images", "--labels", phantoms / "labels.csv", "--where", "site=a"),
        *("--within", "site", "--negatives", "normal", "--map", "nodule=Pneumothorax", "--report", tmp_path / "new/r"),
        *("--limit", 3, "--seed", 7),
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "new/r/evaluation.json").read_text(encoding="utf-8"))
    assert found["images"]["left_out_by_options"] == 7
    one = found["classes"][0]
    assert one["column"] == "Pneumothorax"
    assert (one["positives"], one["negatives"], one["not_compared"]) == (1, 1, 1)
    assert [part["value"] for part in one["within"]] == ["a"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--map", "nodule"], "--map 'nodule': expected NAME=VALUE"),
        (["--map", "mass=Nodule"], "the model has no such output"),
        (["--map", "nodule=Mass"], "has no column 'Mass'; it has: File, patient_id"),
        (["--where", "ward=3"], "has no column 'ward'"),
        (["--within", "patient_id"], "its values would identify persons"),
        (["--where", "site=none"], "of 10 rows none can be evaluated"),
        (["--report", "{file}"], "cannot be made"),
        (["--report", "{folder}"], "is the folder of the images, which a report could write over"),
    ],
)
def test_what_cannot_be_done_is_told(phantoms: Path, args: list[str], told: str) -> None:
    args = [arg.format(file=phantoms / "labels.csv", folder=phantoms / "images/../images") for arg in args]
    done = evaluate("phantom_cxr", "--images", phantoms / "images", "--labels", phantoms / "labels.csv", *args)
    assert done.exit_code == 1
    assert isinstance(done.exception, NodeError)
    assert told in str(done.exception)


@pytest.mark.slow
def test_a_model_that_is_not_there_and_labels_of_nothing_end_with_status_1(phantoms: Path, tmp_path: Path) -> None:
    done = evaluate("no_such", "--images", phantoms, "--labels", phantoms / "labels.csv")
    assert (done.exit_code, "phantom_cxr" in str(done.exception)) == (1, True)
    unknown = table(tmp_path / "l.csv", [["file", "nodule"], ["1.png", ""]])
    done = evaluate(shipped()["phantom_cxr"], "--images", phantoms / "images", "--labels", unknown)
    assert (done.exit_code, "nothing was evaluated" in str(done.exception)) == (1, True)
    assert "phantom_cxr: is no installed model, so nothing compares its files" in done.output
    assert "it runs: MONAI's own parts only" in done.output
    broken = table(tmp_path / "l.csv", [["file", "nodule"], ["half.png", "1"]])
    done = evaluate("phantom_cxr", "--images", phantoms / "images", "--labels", broken)
    assert (done.exit_code, "none of 1 images could be read" in str(done.exception)) == (1, True)
    assert "half.png: is damaged" in done.output


def test_an_installed_model_is_found_by_its_name_and_refused_when_its_files_changed(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[node]\ndata_dir = "state"\n')
    store = Models(tmp_path / "state")
    with store.changing() as part:
        shutil.copytree(shipped()["phantom_cxr"], part / "bundle")
        reading = part / "bundle/configs/reading.json"
        reading.write_text(reading.read_text().replace('"name": "phantom_cxr"', '"name": "mine"'))
        identity = describe(part / "bundle").identity
        store.adopt(
            part,
            Record(
                **{"name": "mine", "version": identity.version, "digest": identity.digest, "user": "", "added": ""},
                **{"files": file_digests(part / "bundle"), "kind": "directory", "place": ""},
            ),
        )
    found = evaluating._described("mine", config)
    assert found.identity == identity
    assert store.root in found.path.parents
    for path in (found.path / "docs", found.path):
        path.chmod(0o755)
    (found.path / "extra.py").write_text("")
    with pytest.raises(NodeError, match=r"extra\.py: was added after the model was checked"):
        evaluating._described("mine", config)
    with pytest.raises(NodeError, match=r"there is no model 'other'; there are: .*mine, phantom_cxr"):
        evaluating._described("other", config)


def test_every_option_is_documented() -> None:
    text = (ROOT / "docs/how-to/evaluate.md").read_text(encoding="utf-8")
    command = get_command(app).commands["models"].commands["evaluate"]  # type: ignore[attr-defined]
    options = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
    assert len(options) == 11
    for name in options:
        assert f"`{name}" in text or f" {name} " in text, name


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "sub/c.png", "sub/b.png"):
        png(tmp_path / "images" / name, np.zeros((4, 4), np.uint8))
    return tmp_path / "images"


def read(images: Path, *rows: Sequence[object], **options: Any) -> Labels:
    return read_labels(table(images.parent / "labels.csv", rows), images, OUTPUTS, **options)


def test_columns_are_matched_whatever_their_case_spaces_and_underscores(images: Path) -> None:
    found = read(images, ["FILE", " NODULE", "pleural_Thickening", "Ward"], ["a.png", 1, 0, 3])
    assert found.columns == {"nodule": "NODULE", "pleural": "pleural_Thickening"}
    assert found.unused == ["Ward"]
    assert found.rows[0].truth == (1, 0)
    with pytest.raises(TableError, match="2 columns are called 'nodule'"):
        read(images, ["file", "Nodule", "nodule"], ["a.png", 1, 0])
    with pytest.raises(TableError, match=r"none of these columns is an output of the model \(nodule, pleural\)"):
        read(images, ["file", "mass"], ["a.png", 1])
    assert read(images, ["file", "mass"], ["a.png", 1], mapping={"Nodule": "MASS"}).columns == {"nodule": "mass"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_is_read_as_spreadsheets_write_it(images: Path, delimiter: str, encoding: str) -> None:
    rows = [
        ["file", "nodule", "boxes"],
        ["a.png", 1, "nodule:1,1,2,2;Pleural thickening:0,0,1,1.5"],
        ["sub/c.png", 0, ""],
    ]
    found = read_labels(table(images.parent / "l.csv", rows, delimiter, encoding), images, OUTPUTS)
    assert [row.truth for row in found.rows] == [(1, -1), (0, -1)]
    assert found.rows[0].boxes == (LabelledBox("nodule", 1, 1, 3, 3), LabelledBox("pleural", 0, 0, 1, 1.5))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("file,nodule\na.png,1\n".encode("utf-16"), "UTF-16 text"),
        ("file,nodule\n가.png,1\n".encode("cp949"), "line 2 is not UTF-8"),
        (b"", "is empty"),
        (b"name,nodule\na.png,1\n", "has no column 'file'; it has: name, nodule"),
        (b"file,nodule\n" + b'"' + b"x" * 2_000_000 + b'",1\n', "cannot be read as CSV"),
    ],
)
def test_what_is_no_table_is_refused(images: Path, content: bytes, told: str) -> None:
    (images.parent / "l.csv").write_bytes(content)
    with pytest.raises(TableError, match=told):
        read_labels(images.parent / "l.csv", images, OUTPUTS)


def test_a_cell_is_1_or_0_or_unknown_and_what_it_is_not_is_counted(images: Path) -> None:
    cells = {
        "1": 1,
        "1.0": 1,
        "TRUE": 1,
        "yes": 1,
        "0": 0,
        "0.0": 0,
        "no": 0,
        "": -1,
        "-1.0": -1,
        "NaN": -1,
        "0.7": -1,
        "=1+1": -1,
    }
    for number in range(len(cells)):
        png(images / f"n{number}.png", np.zeros((2, 2), np.uint8))
    found = read(images, ["file", "nodule"], *([f"n{i}.png", cell] for i, cell in enumerate(cells)))
    assert [row.truth[0] for row in found.rows] == list(cells.values())
    assert found.not_understood == {"nodule": 2}


def test_a_file_is_found_by_its_path_or_its_name_and_never_outside_the_folder(images: Path) -> None:
    secret = png(images.parent / "secret.png", np.zeros((2, 2), np.uint8))
    (images / "link.png").symlink_to(secret)
    names = {
        "a.png": images / "a.png",
        "images/sub/c.png": images / "sub/c.png",  # from the table's folder
        str(images / "sub/b.png"): images / "sub/b.png",
        r"D:\export\c.png": "stands in the table again; the first row counts",
        "sub/../b.png": images / "b.png",
        "elsewhere/b.png": "several files of the folder have this name; give the path from the folder",
        "../secret.png": "leads outside the folder of the images",
        "../../../../../../../../etc/passwd": "leads outside the folder of the images",
        "/etc/passwd": "leads outside the folder of the images",
        "link.png": "leads outside the folder of the images",
        "sub": "is no file",
        "nothing.png": "is not in the folder of the images",
        "x" * 5000: "is no name of a file that can be opened",
        "a\0.png": "is no name of a file that can be opened",
        "": "the cell 'file' is empty",
    }
    found = read(images, ["file", "nodule"], *([name, 1] for name in names))
    told = {row.file: row.path for row in found.rows} | dict(found.passed_over)
    told[""] = told.pop(f"(line {len(names) + 1})")
    assert told == names


def test_a_part_of_the_rows(images: Path) -> None:
    rows = (
        ["file", "nodule", "view", "site"],
        ["a.png", 1, "PA", "x"],
        ["b.png", 0, "ap", "x"],
        ["sub/c.png", 0, "PA", "y"],
    )
    names = lambda **options: [row.file for row in read(images, *rows, **options).rows]  # noqa: E731
    assert names(where=[("VIEW", "pa")]) == ["a.png", "sub/c.png"]
    assert names(where=[("view", "pa"), ("view", "AP"), ("site", "x")]) == ["a.png", "b.png"]
    drawn = {seed: tuple(names(limit=2, seed=seed)) for seed in range(20)}
    assert {len(each) for each in drawn.values()} == {2}
    assert len(set(drawn.values())) == 3
    assert names(limit=2, seed=4) == list(drawn[4])
    assert read(images, *rows, limit=2).left_out == 1


def test_subgroups_are_of_few_values_and_ages_in_bands(images: Path) -> None:
    ages = {
        "017Y": "0-17",
        "18": "18-39",
        "006M": "0-17",
        "64.9": "40-64",
        "91": "65 and older",
        "old": "unknown",
        "": "unknown",
    }
    for number in range(len(ages)):
        png(images / f"n{number}.png", np.zeros((2, 2), np.uint8))
    rows = [[f"n{i}.png", 1, age, f"ward {i}"] for i, age in enumerate(ages)]
    found = read(images, ["file", "nodule", "age", "sex"], *rows)
    assert [dict(row.groups)["age"] for row in found.rows] == list(ages.values())
    many = [[f"n{i % 7}.png", 1, "", f"Name {i}"] for i in range(13)]
    assert all(dict(row.groups).keys() == {"age"} for row in read(images, ["file", "nodule", "age", "sex"], *many).rows)


def test_boxes_that_are_none_are_counted(images: Path) -> None:
    cell = "nodule:1,2,3|nodule:1,1,0,4|nodule:a,b,c,d|nodule:nan,1,1,1|Heart:1,1,1,1|nodule:1,2,3,4|nonsense"
    found = read(images, ["file", "nodule", "boxes"], ["a.png", 1, cell])
    assert found.rows[0].boxes == (LabelledBox("nodule", 1, 2, 4, 6),)
    assert found.not_understood == {"boxes": 5}
    assert found.unknown_boxes == {"Heart": 1}


# --- pictures -------------------------------------------------------------------------------------------------------


def test_the_same_image_as_dicom_png_and_jpeg_looks_the_same(tmp_path: Path) -> None:
    phantom = draw_phantom(1, 200, 160, photometric="MONOCHROME1")
    to_dicom(phantom, seed=1, now=NOW).save_as(tmp_path / "a", enforce_file_format=True)
    shown = load_radiograph(tmp_path / "a").display
    grey = np.rint(shown * 255).astype(np.uint8)
    Image.fromarray(np.rint(shown * 65535).astype(np.uint16)).save(tmp_path / "b.png")
    png(tmp_path / "c.png", grey)
    png(tmp_path / "d.png", grey, "RGB")
    png(tmp_path / "e.png", grey, "RGBA")
    Image.fromarray(grey).convert("RGB").save(tmp_path / "f.jpg", quality=98)
    for name, apart in (
        ("a", 0.0),
        ("b.png", 1e-5),
        ("c.png", 0.002),
        ("d.png", 0.002),
        ("e.png", 0.002),
        ("f.jpg", 0.05),
    ):
        picture = load_picture(tmp_path / name)
        assert picture.display.dtype == np.float32
        assert picture.note == ""
        assert np.abs(picture.display - shown).max() <= apart


def test_a_picture_whose_bits_are_not_filled_is_told(tmp_path: Path) -> None:
    Image.fromarray((np.arange(4096, dtype=np.uint16)).reshape(64, 64)).save(tmp_path / "a.png")
    assert "16 bits" in load_picture(tmp_path / "a.png").note


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)))


def coloured(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)).save(path, "PNG")


def transparent(path: Path) -> None:
    Image.new("RGBA", (9, 9), (50, 50, 50, 100)).save(path, "PNG")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (bomb, "too many pixels|has 60000 x 60000 pixels"),
        (coloured, "in colours"),
        (transparent, "transparent"),
        (lambda path: Image.new("CMYK", (9, 9)).save(path, "JPEG"), "mode CMYK"),
        (lambda path: Image.new("L", (9, 9)).save(path, "GIF"), "none of PNG, JPEG and DICOM"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"garbage" * 99), "damaged"),
        (lambda path: path.write_text("file,nodule\n" * 99), "DICOM"),
        (lambda path: path.write_bytes(b""), "DICOM"),
        (lambda path: None, "cannot be opened"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(tmp_path: Path, make: Callable[[Path], None], told: str) -> None:
    make(tmp_path / "x")
    with pytest.raises(ReadingError, match=told) as error:
        load_picture(tmp_path / "x")
    assert str(tmp_path) not in str(error.value)


# --- figures --------------------------------------------------------------------------------------------------------


def said(score: float, truth: int, **row: Any) -> Answer:
    """An answer of which only the first class matters."""
    others = len(KEYS) - 1
    best = row.pop("best", ())
    return Answer(
        Row(**{"file": "f", "path": Path("f"), "patient": "", "truth": (truth, *[-1] * others), **row}),
        (score, *[0.5] * others),
        best,
        *(100, 200, "", 0.0, 0.0),
    )


def first(answers: Sequence[Answer], **options: Any) -> dict[str, Any]:
    return class_figures(SPEC, answers, resamples=50, **options)[0]


def test_an_unknown_label_is_no_negative() -> None:
    one = first([said(0.99, 1), said(0.1, 0), said(0.98, -1)])
    assert (one["positives"], one["negatives"], one["unknown"], one["not_compared"]) == (1, 1, 1, 0)
    assert one["auc"]["value"] == 1.0
    assert one["few"]


def test_negatives_are_those_of_the_column_where_one_is_named() -> None:
    answers = [said(0.5, 1, negative=False), said(0.6, 0, negative=False), said(0.1, 0), said(0.2, -1)]
    one = first(answers)
    assert (one["positives"], one["negatives"], one["not_compared"]) == (1, 1, 1)
    assert one["auc"]["value"] == 1.0


def chest(scores: dict[str, float], negative: bool = True, **labels: int) -> Answer:
    keys = [output.key for output in CHEST.outputs]
    truth = tuple(labels.get(key, -1) for key in keys)
    row = Row(**{"file": "f", "path": Path("f"), "patient": "", "truth": truth, "negative": negative})
    return Answer(row, tuple(scores.get(key, 0.01) for key in keys), (), 100, 200, "", 0.0, 0.0)


def test_what_each_operating_point_calls_is_counted_of_normal_images_and_of_others() -> None:
    cut = {name: point.thresholds for name, point in CHEST.operating_points.items()}
    between = (cut["balanced"]["effusion"] + cut["low_alarm"]["effusion"]) / 2
    answers = [
        chest({"effusion": between}, effusion=0, cardiomegaly=0),  # a false alarm of balanced, none of low_alarm
        chest({"tuberculosis": 0.99, "abnormality": 0.99, "pneumothorax": 0.99}, effusion=0),  # nothing by default
        chest({"airspace_opacity": 0.99}, effusion=0, negative=False),  # it is not known to be normal
        chest({"effusion": 0.99}, effusion=1),
        chest({"effusion": between}, effusion=1),
    ]
    found = {one["name"]: one for one in called(CHEST, answers, negatives=True)}
    assert [one["default"] for one in found.values()] == [False, True, False]
    assert [(one["normal"]["count"], one["normal"]["of"]) for one in found.values()] == [(0, 2), (1, 2), (1, 2)]
    assert [(one["other"]["count"], one["other"]["of"]) for one in found.values()] == [(1, 2), (2, 2), (2, 2)]
    assert found["balanced"]["promised_normal"] == CHEST.operating_points["balanced"].called_of_100_normal
    effusion = next(one for one in found["low_alarm"]["classes"] if one["key"] == "effusion")
    assert (effusion["sensitivity"]["count"], effusion["specificity"]["count"]) == (1, 2)
    assert "pneumothorax" not in {one["key"] for one in found["balanced"]["classes"]}
    # Without a column of negatives an image whose labels are all 0 is normal.
    assert called(CHEST, answers, negatives=False)[1]["normal"]["of"] == 3
    assert called(SPEC, [said(0.99, 1)], negatives=False) == []


def test_within_a_column_a_source_of_positives_alone_counts_nowhere() -> None:
    answers = [
        *(said(score, truth, stratum="a") for score, truth in ((0.4, 1), (0.3, 0))),
        *(said(score, truth, stratum="b") for score, truth in ((0.9, 1), (0.95, 0))),
        *(said(0.99, 1, stratum="positives alone") for _ in range(5)),
    ]
    one = first(answers, within="source")
    assert (one["images"], one["not_compared"]) == (4, 5)
    assert one["auc"]["value"] == 0.5
    assert {part["value"]: part["auc"]["value"] for part in one["within"]} == {"a": 1.0, "b": 0.0}
    assert first(answers)["auc"]["value"] == pytest.approx(12 / 14)


def test_images_of_a_patient_are_drawn_together_and_those_of_nobody_by_themselves() -> None:
    rng = np.random.default_rng(0)
    truth = [int(t) for t in rng.random(30) < 0.5]
    scores = [float(s) for s in rng.random(30)]
    patients = [f"p{i // 3}" if i < 15 else "" for i in range(30)]
    one = first([said(s, t, patient=p) for s, t, p in zip(scores, truth, patients, strict=True)], seed=3)
    groups = [p or f"image {i}" for i, p in enumerate(patients)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    expected = metrics.bootstrap_auc(scores, truth, [numbers[g] for g in groups], seed=3, resamples=50)
    assert (one["auc"]["low"], one["auc"]["high"]) == expected


def test_subgroups_share_the_images_out() -> None:
    sexes = ("F", "M", "unknown")
    answers = [said(i / 40, i % 2, groups=(("sex", sexes[i % 3]), ("age", "0-17"))) for i in range(36)]
    one = first(answers)
    assert [part["value"] for part in one["subgroups"]["sex"]] == list(sexes)
    assert sum(part["images"] for part in one["subgroups"]["sex"]) == one["images"] == 36
    (everybody,) = one["subgroups"]["age"]
    assert everybody["auc"] == one["auc"]


def test_a_box_hits_where_its_centre_lies_in_a_radiologist_s() -> None:
    drawn = (LabelledBox(KEYS[0], 10, 10, 30, 30), LabelledBox(KEYS[0], 100, 50, 120, 70))
    other = (LabelledBox(KEYS[1], 10, 10, 30, 30),)
    beyond = (LabelledBox(KEYS[0], 190, 10, 260, 30),)
    hit, missed = MarkedBox(KEYS[0], 0.9, 0, 0, 40, 40), MarkedBox(KEYS[0], 0.9, 0, 0, 90, 90)
    answers = [
        said(0.99, 1, boxes=drawn, best=(hit,)),
        said(0.99, 1, boxes=drawn, best=(missed,)),
        said(0.1, 1, boxes=drawn),
        said(0.99, 1, boxes=other, best=(hit,)),
        said(0.99, 1, boxes=beyond, best=(hit,)),
        said(0.99, 0, best=(hit,)),
    ]
    boxes = first(answers)["boxes"]
    assert (boxes["images"], boxes["with_a_box_of_the_model"], boxes["beyond_the_image"]) == (3, 2, 1)
    assert (boxes["inside"]["count"], boxes["inside"]["of"]) == (1, 2)
    assert boxes["by_chance"] == 2 * 20 * 20 / (100 * 200)
    assert first(answers[5:])["boxes"] is None


def test_worst_cases_are_the_surest_mistakes() -> None:
    threshold = SPEC.outputs[0].threshold
    answers = [said(i / 100, 1, file=f"p{i}") for i in range(100)] + [
        said(1 - i / 1000, 0, file=f"n{i}") for i in range(60)
    ]
    worst = first(answers)["worst"]
    assert [case["file"] for case in worst["missed"]] == ["p0", "p1", "p2", "p3"]
    assert [case["file"] for case in worst["false_alarms"]] == ["n0", "n1", "n2", "n3"]
    right = first([said(threshold, 1), said(0.1, 0)])["worst"]
    assert right == {"missed": [], "false_alarms": []}


def test_a_threshold_below_the_present_one_is_proposed_with_a_caution_where_scores_depend_on_it() -> None:
    answers = [said(0.3, 1), said(0.2, 0)] * 10
    proposed = first(answers)["proposed"]
    assert set(proposed) == {"youden", "sensitivity_90"}
    assert proposed["youden"]["threshold"] == 0.25
    assert "only rank images" in proposed["youden"]["caution"]
    for task, caution in (("segmentation", proposed["youden"]["caution"]), ("classification", "")):
        other = SPEC.model_copy(update={"task": task})
        assert class_figures(other, answers, resamples=5)[0]["proposed"]["youden"]["caution"] == caution


# --- reading and drawing --------------------------------------------------------------------------------------------


class Stubborn:
    """A model that dies of dark images, as a bundle's own code may."""

    def __init__(self, model: BundleModel) -> None:
        self._model = model

    def read_display(self, display: np.ndarray) -> Any:
        if display.max() == 0:
            raise RuntimeError("of patient SECRET")
        return self._model.read_display(display)


@pytest.mark.slow
def test_an_image_that_a_model_dies_of_is_told_and_the_next_is_read(tmp_path: Path) -> None:
    model = load(shipped()["phantom_cxr"])
    rows = []
    for number, level in enumerate((90, 0, 120)):
        path = png(tmp_path / f"{number}.png", np.linspace(0, level, 64 * 48).reshape(64, 48).astype(np.uint8))
        rows.append(Row(path.name, path, "", (-1,) * len(KEYS)))
    read, dead, again = read_rows(Stubborn(model), rows)  # type: ignore[arg-type]
    assert isinstance(dead, Unread)
    assert dead.row.file == "1.png"
    assert dead.reason.startswith("cannot be read: RuntimeError in read_display")
    assert "SECRET" not in dead.reason
    for one, number in ((read, 0), (again, 2)):
        assert isinstance(one, Answer)
        assert one.row.file == f"{number}.png"
        assert (one.rows, one.columns) == (64, 48)
        assert one.scores == model.read_display(load_picture(one.row.path).display).scores


def test_a_case_shows_the_model_s_marks_and_the_radiologist_s_where_they_are() -> None:
    display = np.full((400, 200), 0.4, np.float32)
    heat = HeatMap("", "nodule", np.ones((1, 1), np.float32), 0, 300, 200, 400)
    jpeg = plots.case_picture(
        display,
        [heat],
        [MarkedBox("nodule", 0.9, 20, 40, 120, 100)],
        [LabelledBox("nodule", 20, 160, 120, 240)],
        side=400,
    )
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert picture.size == (200, 400)
        seen = np.asarray(picture.convert("RGB")).astype(int)

    def like(place: tuple[int, int], colour: str) -> bool:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        return bool(np.abs(seen[place] - wanted).max() < 60)

    assert like((70, 20), plots.MODEL_COLOUR)
    assert like((41, 70), plots.MODEL_COLOUR)
    assert like((162, 20), plots.READER_COLOUR)
    assert np.ptp(seen[10, 100]) < 12  # nothing there: still grey
    assert np.ptp(seen[350, 100]) > 40  # the heat map's colour
    assert np.ptp(seen[290, 100]) < 12
