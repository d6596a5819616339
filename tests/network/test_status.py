"""What the answers of another AE mean."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from dicom_node.network.status import REJECTIONS, STATUSES, Verdict, abort, comment, rejection, status_text, verdict


@pytest.mark.parametrize(
    ("status", "expected", "text"),
    [
        (0x0000, Verdict.STORED, "0000, success"),
        (0xB000, Verdict.STORED, "B000, it changed attributes (coercion of data elements)"),
        (0xB001, Verdict.STORED, "B001, a warning of its own"),
        (0xBFFF, Verdict.STORED, "BFFF, a warning of its own"),
        (0x0117, Verdict.REFUSED, "0117, invalid SOP instance UID"),
        (0x0122, Verdict.REFUSED, "0122, SOP class not supported"),
        (0x0124, Verdict.REFUSED, "0124, not authorized"),
        (0xA900, Verdict.REFUSED, "A900, the data set does not match its SOP class"),
        (0xA9FF, Verdict.REFUSED, "A9FF, the data set does not match its SOP class"),
        (0xC000, Verdict.REFUSED, "C000, it cannot understand or process it"),
        (0xCFFF, Verdict.REFUSED, "CFFF, it cannot understand or process it"),
        (0x0110, Verdict.LATER, "0110, processing failure: an error inside it"),
        (0xA700, Verdict.LATER, "A700, out of resources"),
        (0xA7FF, Verdict.LATER, "A7FF, out of resources"),
        (0xA800, Verdict.LATER, "A800, a status outside the standard"),
        (0xD000, Verdict.LATER, "D000, a status outside the standard"),
    ],
)
def test_a_status_of_a_c_store(status: int, expected: Verdict, text: str) -> None:
    assert verdict(status) is expected
    assert status_text(status) == text


def test_every_row_of_the_tables_can_be_reached_and_names_its_source() -> None:
    for number, row in enumerate(STATUSES):
        assert row.first <= row.last
        assert row.source.startswith("PS3.")
        assert not any(earlier.first <= row.first and row.last <= earlier.last for earlier in STATUSES[:number])
    assert len({(row.source, row.diagnostic) for row in REJECTIONS}) == len(REJECTIONS)


def test_a_rejection_is_told_apart_by_its_source() -> None:
    names = {"ours": "AINODE", "theirs": "PACS", "peer": "pacs"}
    assert rejection(1, 3, **names) == ("it does not know our AE title 'AINODE'", "add it to the PACS")
    assert rejection(1, 7, **names) == ("it does not answer to AE title 'PACS'", "correct ae_title of peer pacs")
    assert rejection(3, 2, **names) == ("it has reached its limit of associations", "")
    assert rejection(2, 9, **names) == ("reason 9", "")


def test_only_the_provider_gives_a_reason_for_an_abort() -> None:
    assert abort(2, 1) == "its DICOM layer aborted: it did not recognise what we sent"
    assert abort(2, 3) == "its DICOM layer aborted: reason 3"
    assert abort(0, 1) == "its application aborted without a reason"


def test_what_a_peer_says_beside_a_status_is_shown_without_control_characters() -> None:
    response = Dataset()
    assert comment(response) == ""
    response.ErrorComment = "disk \x1b[2J full"
    response.OffendingElement = [0x00100020]
    assert comment(response) == r"; it says 'disk \\x1b[2J full'; offending elements: (0010,0020)"
