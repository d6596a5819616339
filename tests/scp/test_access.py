"""Who may associate, decided without a socket: the rejection is data, and a place is given back."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import ComputedRadiographyImageStorage
from pynetdicom.sop_class import ModalityPerformedProcedureStep, Verification

from dicom_node.config.holder import SettingsHolder
from dicom_node.scp import access
from dicom_node.scp.access import Acceptance, Access, Mark, Place, Proposal, Rejection
from tests.support.nodes import settings_for

FULL: Mark = (lambda: "the disk is full", "make room")


def access_to(folder: Path, *marks: Mark) -> Access:
    return Access(SettingsHolder(settings_for(folder)), marks, {Verification, ModalityPerformedProcedureStep})


def proposal(
    *sop_classes: str, called: str = "AINODE", calling: str = "TESTER", address: str = "127.0.0.1"
) -> Proposal:
    return Proposal(called, calling, address, frozenset(sop_classes or (ComputedRadiographyImageStorage,)))


def decided(one: Access, asked: Proposal) -> Acceptance | Rejection:
    peer = one.judge(asked)
    return peer if isinstance(peer, Rejection) else one.decide(asked, peer)


def test_a_peer_is_accepted_and_known_by_its_name(tmp_path: Path) -> None:
    decision = decided(access_to(tmp_path), proposal())
    assert isinstance(decision, Acceptance)
    assert [peer.name for peer in decision.peer.peers] == ["tester"]
    assert (decision.peer.may_store, decision.place) == (True, Place.ANY_SERVICE)


@pytest.mark.parametrize(
    ("asked", "answer", "reason", "fix"),
    [
        (proposal(called="OTHER"), (1, 1, 7), "called AE title 'OTHER'", "called AE title on the sender"),
        (proposal(calling="NOBODY"), (1, 1, 3), "'NOBODY' at 127.0.0.1 is no peer", 'ae_title = "NOBODY"'),
        (proposal(address="10.0.0.1"), (1, 1, 3), "may call from 127.0.0.1, not from 10.0.0.1", "host = '10.0.0.1'"),
    ],
    ids=["called title", "calling title", "address"],
)
def test_a_rejection_says_why_and_what_to_do(
    tmp_path: Path, asked: Proposal, answer: tuple[int, int, int], reason: str, fix: str
) -> None:
    decision = decided(access_to(tmp_path), asked)
    assert isinstance(decision, Rejection)
    assert decision.answer == answer
    assert reason in decision.reason
    assert fix in decision.fix


def test_a_mark_holds_off_images_alone(tmp_path: Path) -> None:
    full = access_to(tmp_path, FULL)
    for without_images in (proposal(Verification), proposal(ModalityPerformedProcedureStep, Verification)):
        assert isinstance(decided(full, without_images), Acceptance)
    fix = "make room; senders try again by themselves"
    assert decided(full, proposal(ComputedRadiographyImageStorage, Verification)) == Rejection(
        (2, 3, 1), "the disk is full", fix
    )


def test_a_place_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_ASSOCIATIONS", 1)
    one = access_to(tmp_path)
    first = decided(one, proposal())
    assert isinstance(first, Acceptance)
    assert decided(one, proposal()) == Rejection((2, 3, 2), "1 associations are open already; the caller may try again")
    echo = decided(one, proposal(Verification))
    assert isinstance(echo, Acceptance)
    assert echo.place is Place.ECHO_ALONE
    one.leave(first)
    assert isinstance(decided(one, proposal()), Acceptance)


MODALITY = {"name": "modality", "ae_title": "MODALITY", "host": "10.0.0.7", "may_store": True}


def test_one_caller_that_takes_all_it_can_leaves_places_for_others(tmp_path: Path) -> None:
    one = Access(SettingsHolder(settings_for(tmp_path, peers=[MODALITY])), (), ())
    taken = [decided(one, proposal()) for _ in range(600)]
    accepted = [each for each in taken if isinstance(each, Acceptance)]
    assert len(accepted) == 401  # more than four times what is left would not be a share
    refused = taken[-1]
    assert isinstance(refused, Rejection)
    assert (refused.answer, "the rest is for others" in refused.reason) == ((2, 3, 2), True)
    other = proposal(calling="MODALITY", address="10.0.0.7")
    others = [decided(one, other) for _ in range(50)]
    assert all(isinstance(each, Acceptance) for each in others)
    for each in accepted:
        one.leave(each)
    assert isinstance(decided(one, proposal()), Acceptance)


def test_unknown_callers_are_counted_by_address_whatever_they_call_themselves(tmp_path: Path) -> None:
    one = Access(SettingsHolder(settings_for(tmp_path, node={"accept_unknown_callers": True})), (), ())
    taken = [decided(one, proposal(calling=f"X{number}", address="10.0.0.9")) for number in range(500)]
    assert isinstance(taken[-1], Rejection)
    assert isinstance(decided(one, proposal(calling="X1", address="10.0.0.10")), Acceptance)


def test_a_stranger_that_asks_too_often_is_limited_and_a_peer_at_its_address_is_not(tmp_path: Path) -> None:
    one = access_to(tmp_path)
    stranger = proposal(calling="NOBODY")
    one.charge(None, stranger.address, 1.5)
    limited = one.judge(stranger)
    assert isinstance(limited, Rejection)
    assert (limited.limited, limited.answer) == (True, (2, 3, 1))
    peer = one.judge(proposal())
    assert not isinstance(peer, Rejection)
    one.charge(peer, stranger.address, 25.0)
    assert one.is_overdrawn(peer, stranger.address)
    assert isinstance(one.judge(proposal()), Rejection)
