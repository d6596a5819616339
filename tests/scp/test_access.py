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


def test_a_peer_is_accepted_and_known_by_its_name(tmp_path: Path) -> None:
    decision = access_to(tmp_path).decide(proposal())
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
    decision = access_to(tmp_path).decide(asked)
    assert isinstance(decision, Rejection)
    assert decision.answer == answer
    assert reason in decision.reason
    assert fix in decision.fix


def test_a_mark_holds_off_images_alone(tmp_path: Path) -> None:
    full = access_to(tmp_path, FULL)
    for without_images in (proposal(Verification), proposal(ModalityPerformedProcedureStep, Verification)):
        assert isinstance(full.decide(without_images), Acceptance)
    fix = "make room; senders try again by themselves"
    assert full.decide(proposal(ComputedRadiographyImageStorage, Verification)) == Rejection(
        (2, 3, 1), "the disk is full", fix
    )


def test_a_place_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MAX_ASSOCIATIONS", 1)
    one = access_to(tmp_path)
    assert isinstance(one.decide(proposal()), Acceptance)
    assert one.decide(proposal()) == Rejection((2, 3, 2), "1 associations are open already; the caller may try again")
    echo = one.decide(proposal(Verification))
    assert isinstance(echo, Acceptance)
    assert echo.place is Place.ECHO_ALONE
    one.leave(Place.ANY_SERVICE)
    assert isinstance(one.decide(proposal()), Acceptance)
