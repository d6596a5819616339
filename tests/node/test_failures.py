"""Each way in which a reading can fail: a report says so, or the study and the log say why none could be made."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicom_node.node import Node
from dicom_node.results.objects.report_text import report_text
from tests.node.test_way import StartNode, StartPacs, detail, ended, radiograph
from tests.support.nested import nested, put_before_pixels
from tests.support.nodes import settings_for
from tests.support.peers import Pacs, send
from tests.support.samples import make_image
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # each starts a reading process

DEEP = 5000  # Python ends a recursion at about 1000


def start(start_node: StartNode, start_pacs: StartPacs, folder: Path, **changes: Any) -> tuple[Node, Pacs]:
    pacs = start_pacs()
    return start_node(settings_for(folder / "node", pacs_port=pacs.port, node={"quiet_seconds": 1.0}, **changes)), pacs


def ended_after(node: Node, image: Any, damage: Callable[[Path], None]) -> dict[str, Any]:
    """How a study ends whose one file is damaged after it was received and before it is read."""
    send(node.port, image)
    kept = node.received(image.SOPInstanceUID)
    assert kept is not None
    damage(kept[0])
    return ended(node, image.StudyInstanceUID)


def cut_off(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(struct.pack("<HH", 0x7FE0, 0x0010)) + 500])


def deep_table(path: Path) -> None:
    put_before_pixels(path, nested(0x0028, 0x3010, DEEP))


def other_instance(path: Path) -> None:
    data = path.read_bytes()
    uid = str(pydicom.dcmread(path).SOPInstanceUID).encode()
    path.write_bytes(data.replace(uid, uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2")))


def no_dicom(path: Path) -> None:
    path.write_bytes(b"no DICOM" * 1000)


@pytest.mark.parametrize("damage", [cut_off, deep_table], ids=lambda damage: damage.__name__)
def test_an_image_that_cannot_be_read_is_reported_as_failed_and_as_nothing_else(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    node, pacs = start(start_node, start_pacs, tmp_path)
    image = make_image(PatientName="Müller^Anna")
    found = ended_after(node, image, damage)
    assert found["state"] == "failed"
    assert "no report" not in found["reason"]
    wait_until(pacs.uids, "the report of the failure")
    report = pydicom.dcmread(node.result_file(pacs.uids()[0]))  # type: ignore[arg-type]
    assert (report.PatientName, report.PatientID) == (image.PatientName, image.PatientID)
    assert "AI reading failed" in report_text(report)
    assert "This is not a negative result" in report_text(report)
    assert "Absent" not in str(report)


@pytest.mark.parametrize("damage", [no_dicom, other_instance, Path.unlink], ids=lambda damage: damage.__name__)
def test_where_no_file_says_whose_it_is_the_study_and_the_log_say_why_there_is_no_report(
    start_node: StartNode,
    start_pacs: StartPacs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    node, pacs = start(start_node, start_pacs, tmp_path)
    image = make_image()
    found = ended_after(node, image, damage)
    assert (found["state"], found["readings"], pacs.uids()) == ("failed", [], [])
    why = "no report says so: no file of the study says which patient it is of"
    assert found["reason"].endswith(why)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "failure.untold" in line)
    assert why in line


def test_an_image_with_a_deep_private_sequence_is_read_as_every_other(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path
) -> None:
    node, pacs = start(start_node, start_pacs, tmp_path)
    found = ended_after(
        node,
        radiograph(7, "nodule"),
        lambda path: put_before_pixels(path, nested(0x0029, 0x1001, DEEP)),
    )
    assert found["state"] == "delivered"
    assert found["readings"][0]["findings"]
    assert pacs.uids()


def test_a_route_that_reports_no_failures_says_so(start_node: StartNode, start_pacs: StartPacs, tmp_path: Path) -> None:
    routes = [{"name": "all", "models": ["phantom_cxr"], "to": ["pacs"], "report_failures": False}]
    node, pacs = start(start_node, start_pacs, tmp_path, routes=routes)
    image = make_image(PixelData=b"\0" * 100)
    send(node.port, image)
    found = ended(node, image.StudyInstanceUID)
    assert (found["state"], pacs.uids()) == ("failed", [])
    assert found["reason"].endswith("no report says so: report_failures is false on route 'all'")


def test_images_of_two_patients_say_why_there_is_no_report(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path
) -> None:
    node, pacs = start(start_node, start_pacs, tmp_path)
    first = make_image()
    send(node.port, first, make_image(StudyInstanceUID=first.StudyInstanceUID, PatientID="ANOTHER"))
    found = ended(node, first.StudyInstanceUID)
    assert (found["state"], pacs.uids()) == ("failed", [])
    assert "no report says so: the study holds images of more than one patient" in found["reason"]
    assert "ANOTHER" not in str(detail(node, first.StudyInstanceUID))
