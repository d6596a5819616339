"""Associations that we ask for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider

from dicom_node.node import Node
from tests.support.nodes import settings_for
from tests.support.peers import associate
from tests.support.samples import make_image

StartNode = Callable[..., Node]


class SlowToSay(Association):
    """An association whose thread is held up just where it has gone on and does not say so yet."""

    @property
    def _is_paused(self) -> bool:
        return bool(self.__dict__["paused"])

    @_is_paused.setter
    def _is_paused(self, paused: bool) -> None:
        if not paused:
            time.sleep(0.05)
        self.__dict__["paused"] = paused


@pytest.mark.slow
def test_no_answer_is_lost_to_the_thread_of_the_association(
    start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start_node(settings_for(tmp_path / "node"))
    get_msg = DIMSEServiceProvider.get_msg

    def slowly(provider: DIMSEServiceProvider, block: bool = False) -> Any:
        if block:  # who sent a request comes for the answer late
            time.sleep(0.15)
        return get_msg(provider, block)

    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", slowly)
    monkeypatch.setattr("pynetdicom.ae.Association", SlowToSay)
    first = make_image()
    images = [make_image(StudyInstanceUID=first.StudyInstanceUID) for _ in range(3)]
    association = associate(node.port, (first.SOPClassUID, ExplicitVRLittleEndian))
    association.dimse_timeout = 2
    assert [association.send_c_store(image).get("Status") for image in images] == [0x0000] * 3
    association.release()
