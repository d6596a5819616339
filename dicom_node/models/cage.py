"""The cage of a node's reading processes: what they may open, and where they may write."""

from __future__ import annotations

from collections.abc import Mapping

from ai.bundle.pins import Pinned
from ai.cage import Cage
from ai.engine.devices import reads_on_cpu
from dicom_node.config.settings import Settings


def cage_of(settings: Settings, bundles: Mapping[str, Pinned], *, background: bool = False) -> Cage:
    """The cage of a process with some models.

    It reads their files. Images come to it open (`dicom_node.reading.messages.lent`); results it puts into ``made/``.
    """
    data_dir = settings.node.data_dir.absolute()
    on_cpu = reads_on_cpu(settings.node.device)
    return Cage(
        private=None,
        reads=tuple(str(each.path.absolute()) for each in bundles.values()),
        drops=(str(data_dir / "made"),),
        hides=(str(data_dir),),
        gpu=not on_cpu,
        memory=on_cpu,  # a GPU's driver maps more than it uses
        expendable=background,
    )
