"""Models in shadow: they read what a route takes, it is recorded, and nothing of it leaves the node or holds one up."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom.uid import ComprehensiveSRStorage
from sqlite_utils import Database
from typer.testing import CliRunner

from ai.bundle import pins
from ai.bundle.files import shipped as shipped_bundles
from dicom_node.cli.main import app
from dicom_node.config.holder import SettingsHolder
from dicom_node.config.settings import Profile, Settings
from dicom_node.errors import ConfigError
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.migrations import SCHEMA
from dicom_node.index.rows import Job, JobKind, NewInstance, NewReading, StoredSeries
from dicom_node.jobs.patience import Patience
from dicom_node.models import install, registry
from dicom_node.models.registry import find
from dicom_node.node import Node
from dicom_node.operations.check import points
from dicom_node.reading.messages import ReadRequest, Wanted
from dicom_node.studies.completion import Completer
from dicom_node.studies.routing import routes_of, shadows_of
from tests.node.test_way import detail, ended, radiograph
from tests.support.nodes import settings_for
from tests.support.peers import Pacs, send
from tests.support.samples import make_image, reading_text
from tests.support.waiting import scaled, wait_until

StartNode = Callable[..., Node]
StartPacs = Callable[..., Pacs]
PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, "destination": True}
CHEST = StoredSeries("1.1.1", "DX", "CHEST", "", "", ("MOD",))


def routed(folder: Path, *routes: dict[str, Any]) -> Settings:
    full = [{"name": f"r{number}", "to": ["pacs"], **route} for number, route in enumerate(routes)]
    return settings_for(folder, peers=[PACS], routes=full)


# --- the configuration -----------------------------------------------------------------------------------------------


def test_a_model_cannot_be_sent_and_kept_by_one_route(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"route 'r0': 'b' stands in models and in shadow; expected it in one"):
        routed(tmp_path, {"models": ["a", "b"], "shadow": ["b"]})
    with pytest.raises(ValidationError, match=r"route 'r0': each shadow may stand once, 'b' stands more often"):
        routed(tmp_path, {"models": ["a"], "shadow": ["b", "b"]})


def test_the_configuration_tells_the_models_apart(tmp_path: Path) -> None:
    settings = routed(tmp_path, {"models": ["a"], "shadow": ["b", "c"]}, {"models": ["b"]})
    assert settings.models() == ("a", "b", "c")
    assert settings.reading_models() == ("a", "b")
    assert settings.shadow_models() == ("b", "c")


@pytest.mark.parametrize(
    ("routes", "reading", "shadows"),
    [
        ([{"models": ["a"], "shadow": ["b", "c"]}], [("r0", "a")], [("r0", "b"), ("r0", "c")]),
        # The real reading counts, and is the shadow's too.
        ([{"models": ["a"], "shadow": ["b"]}, {"models": ["b"]}], [("r0", "a"), ("r1", "b")], []),
        # The first route that has it in shadow, as for the models; a route that does not fit has no shadow either.
        ([{"models": ["a"], "shadow": ["b"]}, {"models": ["c"], "shadow": ["b"]}], [("r0", "a"), ("r1", "c")],
         [("r0", "b")]),
        ([{"models": ["a"], "shadow": ["b"], "match": {"modality": "CT"}}, {"models": ["c"]}], [("r1", "c")], []),
    ],
)  # fmt: skip
def test_which_models_read_a_study_in_shadow(
    tmp_path: Path, routes: list[dict[str, Any]], reading: list[tuple[str, str]], shadows: list[tuple[str, str]]
) -> None:
    settings = routed(tmp_path, *routes)
    assert [(route.name, model) for route, model in routes_of(settings, [CHEST])] == reading
    assert [(route.name, model) for route, model in shadows_of(settings, [CHEST])] == shadows


def ship(bundles: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let these be the bundles that come with the package, pinned as they lie there."""
    for module, name in ((pins, "shipped"), (install, "shipped"), (registry, "shipped_bundles")):
        monkeypatch.setattr(module, name, lambda: bundles)
    monkeypatch.setattr(pins, "_FILE", folder / "pins.json")
    pins.main()


def test_a_candidate_that_is_not_there_is_told_and_one_that_is_broken_keeps_no_node_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "candidate").mkdir()
    there = {**shipped_bundles(), "candidate": tmp_path / "candidate"}
    ship(there, tmp_path, monkeypatch)
    found = find(routed(tmp_path, {"models": ["phantom_cxr"], "shadow": ["candidate"]}))
    assert set(found) == {"phantom_cxr", "candidate"}
    with pytest.raises(ConfigError, match="there is no model 'other'"):
        find(routed(tmp_path, {"models": ["phantom_cxr"], "shadow": ["other"]}))


@pytest.mark.slow
def test_check_tells_what_is_in_shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = shipped_bundles()["phantom_cxr"]
    (tmp_path / "broken").mkdir()
    there = {"phantom_cxr": shipped, "candidate": shipped, "broken": tmp_path / "broken"}
    ship(there, tmp_path, monkeypatch)
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\ndata_dir = "{tmp_path}/state"\n[[peers]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\n'
        'port = 1\ndestination = true\n[[routes]]\nname = "all"\nmodels = ["phantom_cxr"]\n'
        'shadow = ["candidate", "broken"]\nto = ["pacs"]\n'
    )
    told = {point.what: point for point in points(file)}
    assert "in shadow" not in told["model phantom_cxr"].text
    assert told["model candidate"].verdict == "ok"
    assert told["model candidate"].text.endswith("; in shadow of route all: recorded, not sent")
    assert told["model broken"].verdict == "warn"


# --- the index -------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / INDEX_FILE, create=True)
    yield index
    index.close()


def receive(index: Index, uid: str, now: float, study: str = "1.1") -> None:
    index.add_instance(NewInstance(uid, "1.2", "1.2", study, "1.1.1", "DX", "CHEST", "", "", "MOD", uid, 1), now)


def claimed(index: Index, kind: JobKind, now: float = 30.0) -> Job:
    job = index.claim(kind, None, now, 60.0)
    assert job is not None
    return job


def state(index: Index) -> str:
    return str(index.studies_with_state("1.1")[0].state)


def complete(index: Index, settings: Settings, now: float) -> None:
    Completer(SettingsHolder(settings), index).tick(now)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return routed(tmp_path, {"models": ["a"], "shadow": ["b"]})


def test_the_state_of_a_study_does_not_depend_on_a_shadow(index: Index, settings: Settings) -> None:
    receive(index, "1.2.1", 10.0)
    complete(index, settings, 20.0)
    job = claimed(index, "read")
    with index.transaction():
        index.finish(job, 40.0, run_key="k")
        index.add_reading(NewReading("k", "1.1", "a", "1", "d", 30.0, reading_text()), [])
    before = index.studies_with_state("1.1")
    assert state(index) == "delivered"
    shadow = claimed(index, "shadow", 50.0)
    assert index.studies_with_state("1.1") == before
    index.retry_later(shadow, 60.0, "it crashed")
    assert index.studies_with_state("1.1") == before
    index.fail(claimed(index, "shadow", 60.0), 70.0, "it hung")
    assert index.studies_with_state("1.1") == before
    assert index.revive("1.1", 80.0) == 1
    assert index.studies_with_state("1.1") == before


def test_no_shadow_stands_in_front_of_a_study_that_waits(index: Index, settings: Settings) -> None:
    receive(index, "1.2.1", 10.0)
    complete(index, settings, 20.0)
    assert index.claim("shadow", None, 30.0, 60.0) is None
    assert index.next_due("shadow", None) is None, "a worker that waits for its turn does not ask all the time"
    job = claimed(index, "read")
    assert index.claim("shadow", None, 31.0, 60.0) is None, "while it is read"
    index.retry_later(job, 90.0, "it crashed")
    assert index.claim("shadow", None, 40.0, 60.0) is None, "while it is to be tried again"
    index.fail(claimed(index, "read", 91.0), 92.0, "no")
    assert index.next_due("shadow", None) is not None
    assert claimed(index, "shadow", 93.0).target == "b"


def test_a_late_image_is_read_in_shadow_again(index: Index, settings: Settings) -> None:
    for revision, now in ((1, 10.0), (2, 30.0)):
        receive(index, f"1.2.{revision}", now)
        complete(index, settings, now + 10)
    jobs = [(job.kind, job.revision, job.target) for job in index.jobs_of("1.1")]
    assert jobs == [("read", 1, "a"), ("shadow", 1, "b"), ("read", 2, "a"), ("shadow", 2, "b")]


def test_what_leaves_the_configuration_is_told(tmp_path: Path, index: Index, settings: Settings) -> None:
    receive(index, "1.2.1", 10.0)
    complete(index, settings, 20.0)
    # Turned round: a job to read is no job of a shadow, and the other way round nothing would be sent by mistake.
    complete(index, routed(tmp_path, {"models": ["b"], "shadow": ["a"]}), 30.0)
    told = {job.kind: (job.state, job.reason) for job in index.jobs_of("1.1")}
    assert told == {
        "read": ("failed", "the model is no longer in any route of the configuration"),
        "shadow": ("failed", "no route lists the model under shadow any longer"),
    }


def test_a_reading_in_shadow_becomes_a_real_one_and_never_the_other_way(index: Index) -> None:
    receive(index, "1.2.1", 10.0)

    def add(text: str, created: float, *, shadow: bool) -> None:
        index.add_reading(NewReading("k", "1.1", "b", "1", "d", created, reading_text(failure=text), shadow=shadow), [])
        index.add_reading(NewReading("other", "1.1", "b", "1", "d", 0.0, reading_text(), shadow=True), [])

    add("first", 1.0, shadow=True)
    add("real", 2.0, shadow=False)
    add("again in shadow", 3.0, shadow=True)
    _, one = index.readings_of("1.1")
    assert (one.reading.failure, one.created, one.shadow) == ("real", 2.0, False)


def test_a_shadow_asks_for_no_results_and_reads_once() -> None:
    request = ReadRequest("b", "1.1", (), "site", 1.0, wanted=(), known={"k": frozenset({""})}, data_dir="")
    assert request.is_done("k")
    assert not request.is_done("new")
    wanted = (Wanted(Profile(), None),)
    promoted = dataclasses.replace(request, wanted=wanted)
    assert promoted.missing("k") == wanted, "what was read in shadow is read again once it is to be sent"
    assert not promoted.is_done("k")


def test_an_index_of_the_version_before_keeps_everything(tmp_path: Path) -> None:
    file = tmp_path / INDEX_FILE
    old = Database(file)
    SCHEMA.apply(old, stop_before="m003_shadow")
    old["studies"].insert({"study": "1.1", "first_received": 1.0, "last_received": 2.0, "completed": 3.0})
    common = {"study": "1.1", "revision": 1, "route": "r", "due": 4.0, "created": 3.0}
    old["jobs"].insert_all(
        [
            {**common, "id": 7, "kind": "read", "subject": "1.1/1", "target": "a", "state": "done", "run_key": "k",
             "attempts": 1, "finished": 5.0, "reason": ""},
            {**common, "id": 9, "kind": "send", "subject": "9.1", "target": "pacs", "state": "queued", "run_key": "k",
             "attempts": 2, "reason": "no connection"},
        ]
    )  # fmt: skip
    reading = {"run_key": "k", "study": "1.1", "model": "a", "version": "1", "digest": "d", "created": 3.0}
    old["readings"].insert({**reading, "reading": reading_text()})
    result = {"sop_instance_uid": "9.1", "sop_class_uid": "1.2", "series": "9", "run_key": "k", "position": 0}
    old["results"].insert({**result, "role": "sr", "file": "f", "bytes": 5, "profile": "p"})
    before = {table: list(old[table].rows) for table in ("studies", "jobs", "readings", "results")}
    old.close()
    with pytest.raises(ConfigError, match="was made by an earlier version; start the node once"):
        Index(file)
    index = Index(file, create=True)
    index.close()
    new = Database(file)
    added = {
        "readings": {"shadow": 0},
        "jobs": {"deaths": 0},
        "instances": {"removed": None, "edition": 1},
        "results": {"removed": None},
        "studies": {"removed": None, "kept": 1, "leftover": 0, "evidence": ""},
    }
    before["jobs"] = [{**row, "outcome": {7: "read", 9: ""}[row["id"]]} for row in before["jobs"]]
    for table, rows in before.items():
        assert list(new[table].rows) == [{**row, **added.get(table, {})} for row in rows]
    assert {each.name for each in new["jobs"].indexes} >= {"jobs_to_claim", "jobs_to_claim_for", "jobs_running"}
    assert next(new.query("PRAGMA integrity_check")) == {"integrity_check": "ok"}
    assert list(new.query("PRAGMA foreign_key_check")) == []
    new.close()
    index = Index(file)
    assert state(index) == "delivering"
    assert claimed(index, "send").subject == "9.1"
    assert not index.claim("read", None, 30.0, 60.0)
    index.close()


# --- a node, the shipped model and candidates ------------------------------------------------------------------------


def candidate(folder: Path, name: str = "candidate", *, spoil: str = "", blind_to: str = "") -> Path:
    """The shipped bundle under another name, not seeing a class, or with a Python expression run before each image."""
    copy = folder / name
    shutil.copytree(shipped_bundles()["phantom_cxr"], copy)
    reading = json.loads((copy / "configs/reading.json").read_text())
    reading["name"] = name
    for output in reading["outputs"]:
        if output["key"] == blind_to:
            output["min_area"] = 1_000_000
    (copy / "configs/reading.json").write_text(json.dumps(reading))
    if spoil:
        config = json.loads((copy / "configs/inference.json").read_text())
        config["spoil"] = f"$lambda x: ({spoil}, x)[1]"
        transforms = config["preprocessing"]["transforms"]
        transforms.insert(0, {"_target_": "Lambdad", "keys": "image", "func": "@spoil"})
        (copy / "configs/inference.json").write_text(json.dumps(config))
    return copy


def shadowed(folder: Path, pacs: Pacs, *shadow: str, **node: Any) -> Settings:
    route = {"name": "all", "models": ["phantom_cxr"], "shadow": list(shadow), "to": ["pacs"]}
    return settings_for(folder, pacs_port=pacs.port, routes=[route], node=node)


def shadow_jobs(node: Node, study: str, count: int = 1) -> list[dict[str, Any]]:
    """The study's jobs in shadow once so many have ended."""

    def look() -> list[dict[str, Any]] | None:
        jobs: list[dict[str, Any]] = detail(node, study)["shadow"]["jobs"]
        return jobs if sum(job["state"] in {"done", "failed"} for job in jobs) >= count else None

    jobs: list[dict[str, Any]] = wait_until(look, "the reading in shadow", 90.0)
    return jobs


@pytest.mark.slow
def test_a_candidate_reads_what_the_route_takes_and_nothing_of_it_is_sent(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path
) -> None:
    pacs = start_pacs()
    bundles = {**shipped_bundles(), "candidate": candidate(tmp_path, blind_to="nodule")}
    node = start_node(shadowed(tmp_path / "node", pacs, "candidate"), bundles=bundles)
    sick, healthy = radiograph(7, "nodule"), radiograph(8)
    send(node.port, sick, healthy)
    for image in (sick, healthy):
        study = image.StudyInstanceUID
        assert ended(node, study)["state"] == "delivered"
        (job,) = shadow_jobs(node, study)
        assert (job["model"], job["route"], job["state"], job["attempts"]) == ("candidate", "all", "done", 1)
        found = detail(node, study)
        (real,), (tried,) = found["readings"], found["shadow"]["readings"]
        assert (real["model"], tried["model"]) == ("phantom_cxr", "candidate")
        assert tried["sources"] == real["sources"] == [image.SOPInstanceUID]
        assert tried["digest"] != real["digest"]
        assert tried["results"] == []
        scores = [{one["key"]: one["score"] for one in each["classes"]} for each in (real, tried)]
        assert scores[0] == pytest.approx(scores[1], abs=0.05)
        assert job["started"] >= found["times"]["read"], "no study waits for a candidate"
    sent = [result["instance"] for one in (sick, healthy) for result in of_model(node, one)]
    assert sorted(pacs.uids()) == sorted(sent)
    assert len(list((tmp_path / "node/results").rglob("*.dcm"))) == len(sent)
    pid = node.shadow_pid
    assert pid is not None
    assert pid != node.reading_pid
    assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
    ended_first = [int(Path(f"/proc/{each}/oom_score_adj").read_text()) for each in (pid, node.reading_pid)]
    assert ended_first[0] > ended_first[1]

    # What is not read again when something else of the study arrives: neither by the model nor by the candidate.
    study = sick.StudyInstanceUID
    send(node.port, make_image(StudyInstanceUID=study, Modality="SR", SOPClassUID=ComprehensiveSRStorage))
    wait_until(lambda: len(detail(node, study)["shadow"]["jobs"]) == 2, "the second revision")
    assert {job["state"] for job in shadow_jobs(node, study, 2)} == {"done"}
    assert len(detail(node, study)["shadow"]["readings"]) == 1
    assert sorted(pacs.uids()) == sorted(sent)

    # As IT sees it, beside the node that runs.
    config = tmp_path / "node.toml"
    config.write_text('[node]\ndata_dir = "node"\n')
    shown = dicom_node("studies", study, "--config", config)
    before, after = shown.split("shadow      not sent")
    assert "model       phantom_cxr" in before
    assert "candidate" not in before
    assert "model       candidate" in after
    assert "in shadow, not sent" in after
    compared = json.loads(dicom_node("models", "compare", "phantom_cxr", "candidate", "--json", "--config", config))
    assert (compared["studies"], compared["a"]["in_shadow"], compared["b"]["in_shadow"]) == (2, 0, 2)
    classes = {one["key"]: one for one in compared["classes"]}
    assert set(classes) == {"nodule", "tuberculosis", "pneumothorax", "pneumonia"}
    assert classes["pneumonia"]["agreement"] == 1.0
    assert (classes["nodule"]["only_a"], classes["nodule"]["both_absent"]) == (1, 1)
    assert classes["nodule"]["difference"]["largest_absolute"] == pytest.approx(0.0, abs=0.05)
    assert [(one["study"], one["class"]) for one in compared["differ"]] == [(study, "nodule")]
    table = dicom_node("models", "compare", "phantom_cxr", "candidate", "--config", config)
    assert "studies     2 of which both read the same images" in table
    assert study in table


def of_model(node: Node, image: Any) -> list[dict[str, Any]]:
    (reading,) = detail(node, image.StudyInstanceUID)["readings"]
    results: list[dict[str, Any]] = reading["results"]
    return results


def dicom_node(*args: object) -> str:
    done = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
def test_candidates_that_are_broken_or_hang_leave_the_study_delivered(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.reading.processes._SHADOW_PATIENCE", Patience(attempts=1, seconds=None))
    pacs = start_pacs()
    broken = candidate(tmp_path, "broken")
    (broken / "models/model.pt").write_bytes(b"no weights")
    hanging = candidate(tmp_path, "hanging", spoil="x.shape[-1] == 1024 and __import__('time').sleep(600)")
    bundles = {**shipped_bundles(), "broken": broken, "hanging": hanging}
    limit = math.ceil(scaled(4.0))  # the route's own model is read within it
    settings = shadowed(tmp_path / "node", pacs, "broken", "hanging", read_timeout_seconds=limit)
    node = start_node(settings, bundles=bundles)
    image = radiograph(8)
    study = image.StudyInstanceUID
    send(node.port, image)
    found = ended(node, study)
    assert (found["state"], found["reason"]) == ("delivered", "")
    pid = node.reading_pid
    jobs = {job["model"]: job for job in shadow_jobs(node, study, 2)}
    assert {job["state"] for job in jobs.values()} == {"failed"}
    assert jobs["hanging"]["reason"].startswith(f"reading took longer than {limit} s; the reading process was stopped")
    assert "model broken could not be loaded" in jobs["broken"]["reason"]
    after = detail(node, study)
    assert {key: after[key] for key in ("state", "reason", "times", "readings", "deliveries")} == {
        key: found[key] for key in ("state", "reason", "times", "readings", "deliveries")
    }
    assert pacs.uids() == [result["instance"] for result in of_model(node, image)]
    assert node.reading_pid == pid, "the process of the route's own models knows nothing of it"
