"""Withdrawals in the index: what is rejected and when, that it is once only, and that no rejected UID comes again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dicom_node.index.index import Index
from dicom_node.index.rows import REJECTION, Job, NewInstance, NewReading, NewResult, Withdrawal
from tests.support.samples import reading_text

STUDY, PACS = "1.1", [("pacs", "p")]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index.sqlite", create=True)
    receive(index)
    yield index
    index.close()


def image(uid: str = "1.2.1") -> NewInstance:
    return NewInstance(uid, "1.2.840.1", "1.2", STUDY, "1.1.1", "CR", "CHEST", "", "", "MOD", f"f/{uid}", 9)


def receive(index: Index, uid: str = "1.2.1") -> None:
    index.add_instance(image(uid), 10.0)


def read(
    index: Index,
    key: str,
    *uids: str,
    profile: str = "p",
    to: Sequence[tuple[str, str]] = PACS,
    committing: Sequence[str] = (),
    withdraws: bool = True,
    **reading: object,
) -> int:
    """Read the study as `Reader` does; how many withdrawals are queued."""
    row = index.studies_with_state(STUDY)[0]
    index.complete(STUDY, row.revision, row.last_received, [("r", "m")], 20.0)
    job = index.claim("read", None, 1e6, 60.0)
    if job is None:
        index._run("UPDATE jobs SET state = 'queued' WHERE kind = 'read' AND revision = ?", row.revision)
        job = index.claim("read", None, 1e6, 60.0)
    assert job is not None
    text = reading_text(**{"sources": ["1.2.1"], **reading})
    results = [NewResult(uid, "1.3", f"{uid}.9", n, "sr", f"r/{uid}", 5, profile) for n, uid in enumerate(uids)]
    with index.transaction():
        assert index.finish(job, 40.0, run_key=key)
        index.add_reading(NewReading(key, STUDY, "m", "1", "d", row.last_received, text), results)
        if withdraws:
            index.supersede(job, key, to, 40.0)
        index.queue_sends(job, key, to, 40.0, committing=committing)
        return index.queue_withdrawals(job, key, to, 40.0) if withdraws else 0


def send(index: Index, *, fails: bool = False, count: int = 100, target: str = "pacs") -> list[str]:
    """Send what is queued."""
    sent = []
    for _ in range(count):
        job = index.claim("send", target, 1e6, 60.0)
        if job is None:
            break
        sent.append(job.subject)
        if fails:
            index.fail(job, 50.0, "refused")
        else:
            finish(index, job)
    return sent


def finish(index: Index, job: Job) -> None:
    with index.transaction():
        assert index.finish(job, 50.0)


def due(index: Index, target: str = "pacs") -> Job | None:
    return index.claim("withdraw", target, 1e6, 60.0)


def withdraw(index: Index, target: str = "pacs") -> Withdrawal:
    """Carry out the withdrawal whose turn it is."""
    job = due(index, target)
    assert job is not None
    assert index.successors_missing(job) == ""
    found = index.withdrawal(job)
    assert found is not None
    finish(index, job)
    return found


def named(withdrawal: Withdrawal) -> list[str]:
    return [each.sop_instance_uid for each in withdrawal.objects]


def correct(index: Index, edition: int, *, safety: bool) -> None:
    index.correct_instance(image(), edition, 45.0, change="safety" if safety else "quality")


def reopen(index: Index) -> None:
    """A late image that no model reads: another revision of the same images."""
    receive(index, f"1.3.{index.revision(STUDY)}")


def test_what_was_sent_is_withdrawn_when_the_new_results_are_there(index: Index) -> None:
    assert read(index, "a", "9.1", "9.2", "9.3") == 0
    assert send(index, count=2) == ["9.1", "9.2"]
    reopen(index)
    assert read(index, "b", "9.4", "9.5") == 1
    assert due(index) is None, "nothing of the new results is sent"
    assert send(index, count=1) == ["9.4"]
    assert due(index) is None, "not all of them"
    assert index.studies_with_state(STUDY)[0].state == "delivering"
    assert send(index) == ["9.5"], "9.3 was called off"
    found = withdraw(index)
    assert (named(found), found.reason, found.failure) == (["9.1", "9.2"], "quality", False)
    assert index.studies_with_state(STUDY)[0].state == "delivered"
    assert due(index) is None


def test_new_results_that_fail_for_good_withdraw_nothing_until_they_are_sent(index: Index) -> None:
    read(index, "a", "9.1")
    send(index)
    reopen(index)
    read(index, "b", "9.4", "9.5")
    send(index, count=1)
    send(index, fails=True)
    job = due(index)
    assert job is not None
    assert index.successors_missing(job) == "1 of the 2 results that take their place are not at pacs"
    index.fail(job, 51.0, "they stay")
    assert index.studies_with_state(STUDY)[0].state == "failed"
    assert index.revive(STUDY, 60.0) == 2
    assert due(index) is None
    send(index)
    assert named(withdraw(index)) == ["9.1"]


def test_a_kind_that_the_destination_does_not_take_is_not_waited_for(index: Index) -> None:
    read(index, "a", "9.1")
    send(index)
    reopen(index)
    read(index, "b", "9.4", "9.5")
    left_out = index.claim("send", "pacs", 1e6, 60.0)
    assert left_out is not None
    with index.transaction():
        index.finish(left_out, 50.0, outcome="not taken", reason="not taken")
    send(index)
    assert named(withdraw(index)) == ["9.1"]


def test_where_the_destination_commits_it_commits_first(index: Index) -> None:
    read(index, "a", "9.1", committing=["pacs"])
    send(index)
    old = index.claim("commit", "pacs", 1e6, 60.0)  # it asks just when the later reading comes
    assert old is not None
    index.note_ask("1.9", old, 1e6)
    reopen(index)
    read(index, "b", "9.2", committing=["pacs"])
    index.retry_later(old, 1e6, "asked")
    send(index)
    assert due(index) is None
    commit = index.claim("commit", "pacs", 1e6, 60.0)
    assert commit is not None
    assert commit.run_key == "b", "nobody asks for the old ones any more"
    index.fail(commit, 51.0, "it does not commit")
    job = due(index)
    assert job is not None
    assert index.successors_missing(job) == "pacs has not committed to the results that take their place"
    index.retry_later(job, 0.0, "")
    index.revive(STUDY, 60.0)
    assert due(index) is None
    commit = index.claim("commit", "pacs", 1e6, 60.0)
    assert commit is not None
    finish(index, commit)
    assert named(withdraw(index)) == ["9.1"]
    # The PACS hides the old one, and answers now that it has none: it must not be sent again.
    index.settle_ask("1.9", [], ["9.1"], "", 1e6)
    assert send(index) == []


@pytest.mark.parametrize("safety", [True, False])
def test_the_reason_is_what_the_correction_changed(index: Index, safety: bool) -> None:
    read(index, "a", "9.1")
    send(index)
    correct(index, 2, safety=safety)
    read(index, "b", "9.2", editions={"1.2.1": 2})
    send(index)
    assert withdraw(index).reason == ("safety" if safety else "quality")
    reopen(index)
    read(index, "c", "9.3", editions={"1.2.1": 2})
    send(index)
    assert named(found := withdraw(index)) == ["9.2"]
    assert found.reason == "quality", "what b read was not corrected since"


def test_a_correction_of_which_nobody_knows_what_it_changed_counts_as_of_safety(index: Index) -> None:
    read(index, "a", "9.1")
    send(index)
    correct(index, 2, safety=False)
    index._run("DELETE FROM corrections")  # a node made it that did not record it yet
    read(index, "b", "9.2", editions={"1.2.1": 2})
    send(index)
    assert withdraw(index).reason == "safety"


def test_an_image_that_came_again_after_retention_removed_it_may_be_another(index: Index) -> None:
    read(index, "a", "9.1")
    send(index)
    index._run("UPDATE instances SET removed = 42.0")
    index.replace_file(STUDY, "1.2.1", "f/again", 9, "1.2", now=45.0)
    reopen(index)
    read(index, "b", "9.2")
    send(index)
    assert withdraw(index).reason == "safety"


def test_a_report_of_a_failure_is_withdrawn_after_a_success_and_withdraws_nothing(index: Index) -> None:
    read(index, "a", "9.1")
    send(index)
    reopen(index)
    assert read(index, "f", "9.2", withdraws=False, failure="no memory") == 0
    send(index)
    assert due(index) is None
    assert read(index, "b", "9.3") == 2
    send(index)
    first, second = withdraw(index), withdraw(index)
    assert [(named(each), each.failure) for each in (first, second)] == [(["9.1"], False), (["9.2"], True)]


def test_a_further_reading_takes_the_place_of_one_that_waits(index: Index) -> None:
    read(index, "a", "9.1")
    send(index)
    reopen(index)
    read(index, "b", "9.2", "9.3")
    send(index, count=1)  # b is sent in part
    reopen(index)
    assert read(index, "c", "9.4") == 2
    assert due(index) is None
    assert send(index) == ["9.4"]
    assert [named(withdraw(index)), named(withdraw(index))] == [["9.1"], ["9.2"]]
    assert due(index) is None


def test_a_result_that_is_sent_just_now_is_withdrawn_if_it_arrives(index: Index) -> None:
    read(index, "a", "9.1", "9.2")
    arriving, lost = (index.claim("send", "pacs", 1e6, 1e9) for _ in range(2))
    assert arriving is not None
    assert lost is not None
    reopen(index)
    assert read(index, "b", "9.3") == 1
    send(index)
    assert due(index) is None, "9.1 and 9.2 are still being sent"
    finish(index, arriving)
    index.retry_later(lost, 0.0, "no answer")
    assert named(withdraw(index)) == ["9.1"]


def test_a_withdrawal_in_work_waits_for_the_newest_results_if_it_is_tried_again(index: Index) -> None:
    read(index, "a", "9.1")
    send(index)
    reopen(index)
    read(index, "b", "9.2")
    send(index)
    job = due(index)
    assert job is not None
    reopen(index)
    read(index, "c", "9.3")
    index.retry_later(job, 0.0, "no connection")
    assert due(index) is None
    send(index)
    assert sorted(named(withdraw(index)) + named(withdraw(index))) == ["9.1", "9.2"]


def test_a_rejection_for_quality_is_followed_by_one_for_safety(index: Index) -> None:
    read(index, "a", "9.1")
    send(index)
    reopen(index)
    read(index, "b", "9.2")
    send(index)
    assert withdraw(index).reason == "quality"
    reopen(index)
    read(index, "c", "9.3")  # of b, for quality: it waits
    correct(index, 2, safety=True)
    assert read(index, "d", "9.4", editions={"1.2.1": 2}) == 2
    send(index)
    found = [withdraw(index), withdraw(index)]
    assert [(named(each), each.reason) for each in found] == [(["9.1"], "safety"), (["9.2"], "safety")]
    assert due(index) is None, "that of b for quality has no use any more"
    reopen(index)
    assert read(index, "e", "9.5", editions={"1.2.1": 2}) == 1


def test_what_retention_or_a_damaged_file_leaves_out_may_still_hold(index: Index) -> None:
    receive(index, "1.2.2")
    read(index, "a", "9.1", sources=["1.2.1", "1.2.2"])
    read(index, "f", "9.2", sources=["1.2.1", "1.2.2"], failure="no memory", withdraws=False)
    send(index)
    reopen(index)
    assert read(index, "b", "9.3", failed=[{"uid": "1.2.2", "reason": "damaged"}]) == 1, "the failure alone"
    send(index)
    assert named(withdraw(index)) == ["9.2"]
    index._run("UPDATE instances SET removed = 1.0 WHERE sop_instance_uid = '1.2.2'")
    reopen(index)
    assert read(index, "c", "9.4") == 0
    correct(index, 2, safety=True)
    assert read(index, "d", "9.5", editions={"1.2.1": 2}) == 3, "of somebody else: a, b and f; c was not sent"


def test_the_runs_that_were_withdrawn_are_known_from_the_decision_on(index: Index) -> None:
    read(index, "a", "9.1")
    send(index)
    assert index.withdrawn_runs(STUDY) == {}
    reopen(index)
    read(index, "b", "9.2")
    assert index.withdrawn_runs(STUDY) == {"a": frozenset({"p"})}
    assert index.withdrawn_runs("other") == {}


def test_results_of_settings_that_a_destination_no_longer_has_are_withdrawn(index: Index) -> None:
    read(index, "a", "9.1")
    send(index)
    reopen(index)
    assert read(index, "a", "9.2", profile="q", to=[("pacs", "q")]) == 1
    assert due(index) is None
    send(index)
    assert named(withdraw(index)) == ["9.1"]
    assert index.withdrawn_runs(STUDY) == {"a": frozenset({"p"})}


def test_each_destination_withdraws_what_it_has(index: Index) -> None:
    both = [("pacs", "p"), ("archive", "p")]
    read(index, "a", "9.1", "9.2", to=both)
    send(index)
    send(index, count=1, target="archive")
    reopen(index)
    assert read(index, "b", "9.3", to=both) == 2
    send(index, target="archive")
    assert due(index) is None, "pacs has not the new one"
    assert named(withdraw(index, "archive")) == ["9.1"]
    send(index)
    assert named(withdraw(index)) == ["9.1", "9.2"]


def test_the_same_run_again_withdraws_nothing(index: Index) -> None:
    read(index, "a", "9.1")
    send(index)
    reopen(index)
    assert read(index, "a") == 0


def test_a_destination_that_no_longer_takes_withdrawals_is_waived_and_asked_again_later(index: Index) -> None:
    read(index, "a", "9.1")
    send(index)
    reopen(index)
    read(index, "b", "9.2")
    assert index.waive("withdraw", ["pacs"], "iocm = false", 60.0) == 0
    assert index.waive("withdraw", [], "iocm = false", 60.0) == 1
    send(index)
    assert due(index) is None
    assert index.studies_with_state(STUDY)[0].state == "delivered"
    reopen(index)
    assert read(index, "c", "9.3") == 2
    send(index)
    assert [named(withdraw(index)), named(withdraw(index))] == [["9.1"], ["9.2"]]


def test_the_key_object_is_recorded_once_and_belongs_to_no_destination(index: Index) -> None:
    read(index, "a", "9.1", "9.2")
    send(index)
    reopen(index)
    read(index, "b", "9.3")
    send(index)
    job = due(index)
    assert job is not None
    found = index.withdrawal(job)
    assert found is not None
    note = NewResult("8.1", "1.2.840.10008.5.1.4.1.1.88.59", "8.0", 2, REJECTION, "r/8.1", 7, REJECTION)
    for _ in range(2):
        index.add_note(found, note, 50.0)
    again = index.withdrawal(job)
    assert again is not None
    assert (again.note, named(again)) == ("8.1", ["9.1", "9.2"])
    with index.transaction():
        assert index.queue_sends(job, "a", [("pacs", "p"), ("other", "p")], 60.0) == 2, "9.1 and 9.2 to the other"
    index.add_instance(NewInstance("8.1", "1.2", "1", STUDY, "8.0", "KO", "", "", "", "PACS", "f", 1), 70.0)
    received = index.received("8.1")
    assert received is not None
    assert received.own, "it comes back from the PACS: no image to read"


def test_what_a_destination_hides_is_not_counted_as_there(index: Index) -> None:
    read(index, "a", "9.1", "9.2")
    send(index)
    assert index.count_with(STUDY, "pacs") == 3
    reopen(index)
    read(index, "b", "9.3")
    send(index)
    assert index.count_with(STUDY, "pacs") == 3, "two images and the new result"
    assert index.count_with(STUDY, "other") == 2
