"""Two models side by side: agreement, scores, boxes, times and failures, by hand-made readings with known answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from dicom_node.cli.main import app
from dicom_node.errors import NodeError
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.rows import NewInstance, NewReading
from dicom_node.models.agreement import Output, Row, Verdict, agreement, cohens_kappa, compare, same_classes

NODULE = ("nodule", "Nodule", "427359005")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / INDEX_FILE, create=True)
    yield index
    index.close()


def said(
    index: Index,
    model: str,
    study: str,
    score: float,
    *,
    threshold: float = 0.5,
    presence: str = "",
    box: tuple[float, float, float, float] | None = None,
    image: str = "",
    of: tuple[str, str, str] = NODULE,
    created: float = 100.0,
    seconds: float = 1.0,
    digest: str = "d1",
    shadow: bool = False,
    failure: str = "",
    not_assessed: str = "",
) -> None:
    """Record that a model gave one class of one study a score, on one image."""
    image = image or f"{study}.1"
    if not index.studies_with_state(study):
        index.add_instance(NewInstance(f"{study}.1", "1.2", "1.2", study, "9", "DX", "", "", "", "MOD", "f", 1), 1.0)
    key, name, value = of
    code = {"value": value, "scheme": "SCT", "meaning": name}
    region = dict(zip(("left", "top", "right", "bottom"), box or (0, 0, 0, 0), strict=True))
    reading: dict[str, Any] = {
        "model": {"notice": ""},
        "sources": [image],
        "classes": [
            {"key": key, "name": name, "code": code, "score": score, "threshold": threshold,
             "not_assessed": not_assessed, "presence": presence or ("present" if score >= threshold else "absent")},
        ],
        "findings": [{"key": key, "name": name, "score": score, "laterality": None,
                      "region": {"sop_instance_uid": image, "frame": 1, **region}}] if box else [],
        "seconds": {"decode": 0.25 * seconds, "network": 0.75 * seconds, "encode": 50.0, "write": 9.0},
        "failure": failure,
    }  # fmt: skip
    if failure:
        reading["classes"] = []
    run = f"{model}/{study}/{image}/{digest}/{created}"
    text = json.dumps(reading)
    with index.transaction():
        index.add_reading(NewReading(run, study, model, "1", digest, created, text, shadow=shadow), [])


def one_class(found: dict[str, Any]) -> dict[str, Any]:
    (one,) = found["classes"]
    result: dict[str, Any] = one
    return result


def test_the_counts_and_the_kappa_of_a_table_that_is_known(index: Index) -> None:
    # 20 both, 5 only a, 10 only b, 15 neither: agreement 0.7, chance 0.5, kappa 0.4.
    cases = [(0.9, 0.8)] * 20 + [(0.9, 0.2)] * 5 + [(0.1, 0.8)] * 10 + [(0.1, 0.2)] * 15
    for number, (a, b) in enumerate(cases):
        said(index, "a", f"1.{number}", a)
        said(index, "b", f"1.{number}", b, shadow=True)
    found = compare(index, "a", "b", limit=3).summary
    one = one_class(found)
    assert found["studies"] == one["studies"] == 50
    assert [one[key] for key in ("both_present", "only_a", "only_b", "both_absent", "undetermined")] == [
        20, 5, 10, 15, 0,
    ]  # fmt: skip
    assert one["agreement"] == pytest.approx(0.7)
    assert one["kappa"] == pytest.approx(0.4)
    assert (found["a"]["in_shadow"], found["b"]["in_shadow"]) == (0, 50)
    assert found["differing"] == 15
    assert len(found["differ"]) == 3


@pytest.mark.parametrize(
    ("table", "kappa"),
    [
        ((10, 0, 0, 10), 1.0),
        ((0, 10, 10, 0), -1.0),
        ((5, 5, 5, 5), 0.0),
        ((45, 15, 25, 15), 0.1304),  # two of Cohen's own kind: the same agreement, another chance
        ((25, 35, 5, 35), 0.2593),
        ((7, 0, 0, 0), None),
        ((0, 0, 0, 7), None),
        ((0, 0, 0, 0), None),
        ((0, 3, 0, 7), 0.0),
    ],
)
def test_cohens_kappa(table: tuple[int, int, int, int], kappa: float | None) -> None:
    assert cohens_kappa(*table) == (None if kappa is None else pytest.approx(kappa, abs=1e-4))


def test_the_scores_are_compared_as_scipy_does() -> None:
    random = np.random.default_rng(1)
    a = random.random(40).round(1)  # rounded: there are ties
    b = (a**3 + 0.1 * random.random(40)).round(1)
    rows = [
        Row(f"1.{n}", "k", Verdict("present", float(x), None), Verdict("present", float(y), None))
        for n, (x, y) in enumerate(zip(a, b, strict=True))
    ]
    found = agreement(rows)
    assert found["pearson"] == pytest.approx(stats.pearsonr(a, b).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(a, b).statistic)
    assert found["difference"]["mean"] == pytest.approx(float((b - a).mean()))
    assert found["difference"]["mean_absolute"] == pytest.approx(float(abs(b - a).mean()))
    assert found["difference"]["largest_absolute"] == pytest.approx(float(abs(b - a).max()))
    assert found["kappa"] is None, "both say present always"


def test_what_cannot_be_computed_is_none_and_no_number() -> None:
    row = Row("1.1", "k", Verdict("undetermined", 0.2, None), Verdict("present", 0.9, None))
    found = agreement([row])
    assert [found[key] for key in ("agreement", "kappa", "pearson", "spearman")] == [None] * 4
    assert (found["studies"], found["undetermined"], found["boxes"]["median_iou"]) == (1, 1, None)
    same = [Row("1.1", "k", Verdict("absent", 0.2, None), Verdict("absent", n / 10, None)) for n in range(5)]
    assert agreement(same)["pearson"] is None
    nothing = agreement([])
    assert (nothing["studies"], nothing["difference"]["mean"]) == (0, None)


def test_where_they_differ_the_largest_difference_comes_first(index: Index) -> None:
    for study, a, b in (("1.1", 0.6, 0.4), ("1.2", 0.1, 0.95), ("1.3", 0.9, 0.6), ("1.4", 0.7, 0.2)):
        said(index, "a", study, a)
        said(index, "b", study, b)
    said(index, "a", "1.5", 0.6)
    said(index, "b", "1.5", 0.45, presence="undetermined")
    differ = compare(index, "a", "b").summary["differ"]
    assert [one["study"] for one in differ] == ["1.2", "1.4", "1.1", "1.5"]
    assert differ[0] == {
        "study": "1.2", "class": "nodule", "score_a": 0.1, "score_b": 0.95, "presence_a": "absent",
        "presence_b": "present", "iou": None,
    }  # fmt: skip


def test_boxes_overlap_where_both_mark(index: Index) -> None:
    said(index, "a", "1.1", 0.9, box=(0, 0, 10, 10))
    said(index, "b", "1.1", 0.9, box=(5, 0, 15, 10))  # a third
    said(index, "a", "1.2", 0.9, box=(0, 0, 10, 10))
    said(index, "b", "1.2", 0.9, box=(20, 20, 30, 30))
    said(index, "a", "1.3", 0.9, box=(0, 0, 10, 10))
    said(index, "b", "1.3", 0.9, box=(0, 0, 10, 10))
    said(index, "a", "1.4", 0.9, box=(0, 0, 10, 10))
    said(index, "b", "1.4", 0.1)
    found = compare(index, "a", "b")
    assert one_class(found.summary)["boxes"] == {"studies": 3, "median_iou": pytest.approx(1 / 3), "at_least_half": 1}
    assert [row.iou for row in found.rows] == [pytest.approx(1 / 3), 0.0, 1.0, None]


def test_boxes_on_different_images_or_frames_do_not_overlap() -> None:
    box = ("1.1", 1, 0.0, 0.0, 9.0, 9.0)
    for other, iou in ((box, 1.0), (("1.2", *box[1:]), 0.0), (("1.1", 2, *box[2:]), 0.0)):
        row = Row("1", "k", Verdict("present", 1.0, box), Verdict("present", 1.0, other))  # type: ignore[arg-type]
        assert row.iou == iou


def test_only_readings_of_the_same_images_are_compared_and_the_newest_counts(index: Index) -> None:
    said(index, "a", "1.1", 0.9, image="x")
    said(index, "b", "1.1", 0.1, image="y")
    assert compare(index, "a", "b").summary["studies"] == 0
    assert compare(index, "a", "b").summary["other_images"] == 1
    said(index, "b", "1.1", 0.2, image="x", created=110.0)
    said(index, "b", "1.1", 0.3, image="x", created=120.0, digest="d2")
    said(index, "b", "1.1", 0.0, image="y", created=130.0)
    found = compare(index, "a", "b")
    assert [(row.a.score, row.b.score) for row in found.rows] == [(0.9, 0.3)]
    assert found.summary["b"]["files"] == {"d1": 3, "d2": 1}
    # Two versions of one model, by the digests of their files.
    found = compare(index, "b@d1", "b@d2")
    assert [(row.a.score, row.b.score) for row in found.rows] == [(0.2, 0.3)]


def test_since_leaves_out_what_was_before(index: Index) -> None:
    for created, study in ((100.0, "1.1"), (200.0, "1.2")):
        said(index, "a", study, 0.9, created=created)
        said(index, "b", study, 0.9, created=created)
    assert compare(index, "a", "b").summary["studies"] == 2
    assert [row.study for row in compare(index, "a", "b", since=150.0).rows] == ["1.2"]
    with pytest.raises(NodeError, match="there is no reading by a since then"):
        compare(index, "a", "b", since=300.0)


def test_a_reading_that_failed_says_nothing_and_is_counted(index: Index) -> None:
    said(index, "a", "1.1", 0.9)
    said(index, "b", "1.2", 0.9)
    said(index, "b", "1.1", 0.0, failure="no images", presence="absent")
    index.complete("1.1", 1, 1.0, [("r", "a")], 20.0, shadows=[("r", "b")])
    read = index.claim("read", None, 30.0, 60.0)
    assert read is not None
    with index.transaction():
        index.finish(read, 40.0, reason="no image of its kind")
    shadow = index.claim("shadow", None, 50.0, 60.0)
    assert shadow is not None
    index.fail(shadow, 60.0, "it crashed")
    found = compare(index, "a", "b").summary
    assert found["studies"] == 0
    assert (found["a"]["not_eligible"], found["a"]["failed"], found["a"]["failures"]) == (1, 0, [])
    assert (found["b"]["not_eligible"], found["b"]["failed"]) == (0, 1)
    assert found["b"]["failures"] == [{"reason": "it crashed", "jobs": 1}]


def test_the_time_is_the_models_own(index: Index) -> None:
    for number in range(1, 101):
        said(index, "a", f"1.{number}", 0.9, seconds=number / 100)
        said(index, "b", f"1.{number}", 0.9, seconds=number / 50)
    found = compare(index, "a", "b").summary
    assert found["a"]["seconds"]["median"] == pytest.approx(0.505), "without the making of objects"
    assert found["b"]["seconds"]["p95"] == pytest.approx(2 * 0.9505)
    assert found["seconds_ratio"] == pytest.approx(2.0)


def test_classes_are_the_same_by_key_else_by_code() -> None:
    a = {"nodule": Output("Nodule", ("1", "SCT")), "ptx": Output("Pneumothorax", ("2", "SCT")),
         "own": Output("Own", ("3", "SCT"))}  # fmt: skip
    b = {"pneumothorax": Output("Pneumothorax", ("2", "SCT")), "nodule": Output("Nodule", ("7", "SCT")),
         "other": Output("Other", ("3", "99X"))}  # fmt: skip
    assert same_classes(a, b) == {"nodule": "nodule", "ptx": "pneumothorax"}


def test_classes_without_a_partner_are_told(index: Index) -> None:
    said(index, "a", "1.1", 0.9, of=("ptx", "Pneumothorax", "36118008"))
    said(index, "b", "1.1", 0.7, of=("pneumothorax", "Pneumothorax", "36118008"))
    said(index, "b", "1.2", 0.7, of=("mass", "Mass", "1"))
    found = compare(index, "a", "b").summary
    assert (one_class(found)["key"], one_class(found)["key_b"]) == ("ptx", "pneumothorax")
    assert (found["only_a"], found["only_b"]) == ([], ["mass"])


def test_a_class_that_a_model_does_not_assess_is_not_compared(index: Index) -> None:
    said(index, "a", "1.1", 0.9)
    said(index, "b", "1.1", 0.0, presence="undetermined", not_assessed="no threshold")
    found = compare(index, "a", "b").summary
    assert (found["studies"], found["classes"], found["only_a"]) == (1, [], ["nodule"])


def test_what_nobody_has_read_is_told(index: Index) -> None:
    said(index, "a", "1.1", 0.9)
    with pytest.raises(NodeError, match="there is no reading by b; models that have read: a"):
        compare(index, "a", "b")
    with pytest.raises(NodeError, match="the same model"):
        compare(index, "a", "a")
    index.complete("1.1", 1, 1.0, [], 20.0, shadows=[("r", "b")])
    with pytest.raises(NodeError, match="models that have read: a; waiting: 1"):
        compare(index, "a", "b")
    job = index.claim("shadow", None, 30.0, 60.0)
    assert job is not None
    index.fail(job, 31.0, "its weights are none")
    with pytest.raises(NodeError, match=r"models that have read: a; failed: 1 \(its weights are none\)"):
        compare(index, "a", "b")


def test_the_command(tmp_path: Path, index: Index) -> None:
    (tmp_path / "node.toml").write_text('[node]\ndata_dir = "."\n')
    for number, (a, b) in enumerate(((0.9, 0.8), (0.1, 0.7), (0.2, 0.3))):
        said(index, "[a]", f"1.{number}", a)
        said(index, "b", f"1.{number}", b, shadow=True)

    def run(*args: str) -> str:
        done = CliRunner().invoke(app, ["models", "compare", "[a]", "b", "-c", str(tmp_path / "node.toml"), *args])
        assert done.exit_code == 0, done.output
        return done.output

    text = run()
    assert "studies     3 of which both read the same images" in text
    assert "[a]" in text, "a name is no markup"
    assert "66.7%" in text
    assert "1.1  " in text
    assert "differ      in 1 of 3 verdicts" in text
    assert json.loads(run("--json"))["studies"] == 3
    run("--report", str(tmp_path / "report"))
    assert json.loads((tmp_path / "report/compare.json").read_text())["studies"] == 3
    with (tmp_path / "report/scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["study"], row["score_a"], row["presence_b"]) for row in rows] == [
        ("1.0", "0.9", "present"),
        ("1.1", "0.1", "present"),
        ("1.2", "0.2", "absent"),
    ]
    assert len(json.loads(run("--json", "--limit", "0"))["differ"]) == 0
    done = CliRunner().invoke(app, ["models", "compare", "a", "b", "-c", str(tmp_path / "node.toml")])
    assert isinstance(done.exception, NodeError)
