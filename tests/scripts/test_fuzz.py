"""scripts/fuzz: some thousand hostile inputs do no harm; its audit and its judgement see what would be harm."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dicom_node.node import Node
from dicom_node.operations import study_status
from scripts.benchmarks.fuzzing import aftermath, conversation, fuzz
from tests.support.nodes import settings_for
from tests.support.peers import Pacs, send
from tests.support.samples import make_image
from tests.support.waiting import wait_until


@pytest.mark.programs
def test_hostile_bytes_do_no_harm_and_the_audit_would_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    audited, seen = aftermath.index_faults, {}

    def spoil_and_audit(data: Path, kept: dict[str, set[str]]) -> Any:
        """The audit as it is, and of the same folder with one thing spoiled after the other."""
        clean = audited(data, kept)
        uid = next(uid for uid, digests in sorted(kept.items()) if digests)
        with closing(sqlite3.connect(data / "index.sqlite")) as index:
            ((name,),) = index.execute("SELECT file FROM instances WHERE sop_instance_uid = ?", (uid,)).fetchall()
        file, content = data / name, (data / name).read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        seen["changed"] = audited(data, kept)
        file.unlink()
        seen["lost"] = audited(data, kept)
        file.write_bytes(content)
        stray = shutil.copy(file, file.with_name("f" * 64 + ".dcm"))
        seen["stray"] = audited(data, kept)
        stray.unlink()
        seen["never answered"] = audited(data, {each: digests for each, digests in kept.items() if each != uid})
        outside = [
            data.parent / "evil",
            data.parent.parent / "evil.dcm",
            data / "spool" / "1.2.3",
            data / "incoming" / "x.part",
        ]
        for each in outside:
            each.touch()
        seen["outside"] = aftermath.folder_faults(data.parent.parent.parent)
        for each in outside:
            each.unlink()
        return clean

    monkeypatch.setattr(fuzz, "index_faults", spoil_and_audit)
    figures = tmp_path / "figures.json"
    told = fuzz.main(["--inputs", "3000", "--seed", "3", "--dir", str(tmp_path), "--json", str(figures)])
    said = capsys.readouterr().out
    assert told == 0, said
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert (found["faults"], found["crashes"]) == ([], 0)
    assert found["inputs"] == 3000 + 3000 // 50
    assert sum(sum(answers.values()) for answers in found["answers"].values()) == found["inputs"]
    assert set(found["answers"]) >= {kind.name for kind in fuzz.KINDS if kind.weight >= 1}
    assert found["instances answered 0000"] > 500
    assert {name: len(faults) for name, faults in seen.items()} == {
        **{"changed": 1, "lost": 1, "stray": 1, "never answered": 1, "outside": 4}
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["figures.json"]  # nothing is left behind


def test_an_input_is_made_again_from_its_number() -> None:
    made = [fuzz.made(5, number) for number in range(300)]
    assert made == [fuzz.made(5, number) for number in range(300)]
    assert len({sent.data for _, sent in made}) > 290
    assert fuzz.made(6, 0) != made[0]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("no answer",), "not answered within"),
        (("closed without a word",), "without a word"),
        (("C-STORE 0110",), "no answer to hostile bytes"),
        (("C-ECHO 0110",), "no answer to hostile bytes"),
        (("odd: a PDU of type 42H and 7 bytes",), "odd"),
        (("odd: a message 8999H",), "odd"),
        (("C-STORE C000", "A-ABORT 2/6"), ""),
        (("A-ASSOCIATE-RJ 1/1/7",), ""),
        (("N-SET 0110",), ""),
    ],
)
def test_an_answer_is_judged(words: tuple[str, ...], fault: str) -> None:
    found = conversation.judged(fuzz.Input(b""), conversation.Answer(words, (), True, 0.0))
    assert [fault in one for one in found] == [True] * bool(fault)


def test_a_good_image_that_is_not_stored_is_a_fault() -> None:
    good = fuzz.Input(b"", data_sets={1: b"data"}, good=True)
    assert conversation.judged(good, conversation.Answer(("C-STORE 0000",), ((1, b"1.2", 0x0000),), False, 0.0)) == []
    assert conversation.judged(good, conversation.Answer(("C-STORE C000",), ((1, b"1.2", 0xC000),), False, 0.0))
    assert conversation.judged(good, conversation.Answer(("A-ABORT 2/6",), (), True, 0.0))


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        json.dumps({"event": "instance.refused", "level": "warning", "reason": "the patient is MARKED^NAME"}),
        json.dumps({"event": "association.aborted", "level": "warning", "error": "KeyError in f, line 1"}),
        json.dumps({"event": "instance.refused", "level": "error", "reason": "an unexpected error"}),
        json.dumps({"event": "thread.failed", "level": "warning", "error": "KeyError in f, line 1"}),
        json.dumps({"event": "association.rejected", "level": "warning", "calling_ae": "\x9b2J"}, ensure_ascii=False),
    ],
)
def test_a_log_that_tells_too_much_or_of_an_error_is_a_fault(line: str) -> None:
    calm = json.dumps({"event": "instance.refused", "level": "warning", "reason": "its SOP Instance UID is none"})
    assert aftermath.log_faults(f"{calm}\n{calm}\n")[1] == []
    events, faults = aftermath.log_faults(f"{calm}\n{line}\n")
    assert len(faults) >= 1
    assert events["instance.refused"] >= 1


def test_memory_that_grows_is_a_fault() -> None:
    calm = {"start": 10**8, "middle": 12 * 10**7, "end": 13 * 10**7, "peak": 2 * 10**8}
    assert aftermath.memory_faults(calm, 100_000) == []
    assert aftermath.memory_faults({**calm, "end": 3 * 10**8}, 100_000)
    assert aftermath.memory_faults({**calm, "peak": 15 * 10**8}, 100)


@pytest.mark.slow
def test_hostile_images_that_were_stored_end_visibly(
    start_node: Callable[..., Node], start_pacs: Callable[..., Pacs], tmp_path: Path
) -> None:
    pacs = start_pacs()
    route = {"name": "all", "models": ["phantom_cxr"], "to": ["pacs"], "report_failures": True}
    node = {"ae_title": "FUZZED", "accept_unknown_callers": True, "read_timeout_seconds": 60}
    running = start_node(settings_for(tmp_path / "node", pacs_port=pacs.port, node=node, routes=[route]))
    kinds = {kind.name: kind for kind in fuzz.hostile_sets.KINDS}
    wanted = {name: 2 for name in kinds if name != "C-STORE: valid"}
    wanted |= {"data set: structure changed": 10, "data set: deflate bomb": 1}
    stored: dict[str, str] = {}  # the study of each kind's inputs
    talk = fuzz._associated(running.port)
    for place, (name, count) in enumerate(wanted.items()):
        taken = 0
        for number in range(300):
            dice = fuzz.Dice(random.Random(f"{name}/{number}"), place, 50 * number)  # a study of its own
            sent = kinds[name].make(dice)
            answer = talk.say(sent.data + fuzz.PROBE_MESSAGE, ends=False)
            assert not conversation.judged(sent, answer)
            if any(status == 0x0000 for _, _, status in answer.stores):
                taken += 1
                stored[dice.study().decode()] = name
            if taken == count:
                break
    talk.close()
    assert len(set(stored.values())) >= 10, "kinds of which something was stored"
    assert running.index is not None
    index = running.index
    studies = [str(row.study) for row in index.studies_with_state()]
    assert len(studies) >= 28

    def ends(study: str) -> str:
        found = study_status.detail(index, study)
        assert found is not None
        state = str(found["state"])
        return state if state in {"delivered", "failed", "no route", "no eligible series"} else ""

    states = {
        study: wait_until(lambda study=study: ends(study), f"{stored.get(study)} to end", 150) for study in studies
    }
    assert set(states.values()) <= {"delivered", "failed", "no eligible series"}
    for study in studies:
        found = study_status.detail(index, study)
        assert found is not None
        assert "MARKED" not in found["reason"]
        assert "Traceback" not in found["reason"]
        assert states[study] == "delivered" or found["reason"]
    assert running.stuck == ""
    good = make_image()
    assert send(running.port, good, called="FUZZED") == [0x0000]
    assert wait_until(lambda: ends(good.StudyInstanceUID), "a good study to end", 90)
    assert running.reading_pid is not None
