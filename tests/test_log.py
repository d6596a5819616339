"""Logs: one JSON line an event, known fields only, nothing that could drive a terminal."""

from __future__ import annotations

import io
import json
import re

from dicom_node import log
from tests.support.programs import ROOT


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_field_that_may_not_be_logged_is_replaced_by_a_note() -> None:
    stream = io.StringIO()
    log.configure(stream)
    log.logger().info("study.complete", study="1.2.3", patient="HONG^GILDONG")
    assert "HONG" not in stream.getvalue()
    (event,) = lines(stream)
    assert event["study"] == "1.2.3"
    assert "'patient'" in str(event["error"])


def test_one_event_is_one_line_whatever_a_peer_sends() -> None:
    stream = io.StringIO()
    log.configure(stream)
    log.logger().info("association.rejected", calling_ae='A\n{"event": "forged"}', reason="\x1b[2J\x9b" + "x" * 5000)
    (event,) = lines(stream)
    assert event["calling_ae"] == 'A\\n{"event": "forged"}'
    assert "\x1b" not in str(event["reason"])
    assert "\x9b" not in str(event["reason"])
    assert len(str(event["reason"])) < 1000


def test_of_what_is_no_uid_at_most_64_cleaned_characters_are_echoed() -> None:
    stream = io.StringIO()
    log.configure(stream)
    uid = "2.25." + "1" * 59
    log.logger().warning("instance.refused", instance="../\n\x1b" + "A" * 300, study=uid, sop_class="\x00" * 80)
    (event,) = lines(stream)
    assert event["study"] == uid
    assert str(event["instance"]).startswith("../\\n\\x1bAAA")
    assert [len(str(event[key])) for key in ("instance", "study", "sop_class")] == [64, 64, 64]


def test_an_unexpected_error_is_told_without_its_message() -> None:
    try:
        int("patient HONG^GILDONG")
    except ValueError as error:
        text = log.where(error)
    assert re.fullmatch(r"ValueError in test_an_unexpected_error_is_told_without_its_message, line \d+", text)


def test_every_field_is_documented() -> None:
    text = (ROOT / "docs" / "reference" / "log-events.md").read_text(encoding="utf-8")
    for name, meaning in log.FIELDS.items():
        assert f"| `{name}` | {meaning} |" in text
