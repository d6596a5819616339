"""Compares editions of images that the receiver could not: deflated, large, or in another transfer syntax.

It runs in the reading process, where pixels are decoded anyway. What says the same leads to no other reading, and
nothing of the earlier one is withdrawn. What cannot be compared here either counts as changed in patient, side or
pixels.
"""

from __future__ import annotations

import zlib
from concurrent.futures import Executor
from io import BytesIO
from typing import BinaryIO

from pydicom.datadict import tag_for_keyword
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from ai.contract import Content, InstanceRef, ReadingError, SeriesRef
from ai.images.comparing.stored_frames import same_pixels
from ai.images.content import open_content
from ai.images.elements import file_meta, guarded, refuse_bomb
from dicom_node.dicom.meaning import Meaning
from dicom_node.index.index import Index
from dicom_node.index.rows import Change
from dicom_node.log import logger
from dicom_node.reading.messages import ReadRequest, lent
from dicom_node.storage.compared import COMPARED, SAFETY
from dicom_node.storage.corrections import differing_tags
from dicom_node.storage.spool import Spool

_MOST_ELEMENTS = 2_000_000
_MOST_BYTES = 256 * 1024 * 1024
_PHOTOMETRIC = int(tag_for_keyword("PhotometricInterpretation") or 0)
_PLANAR = int(tag_for_keyword("PlanarConfiguration") or 0)
_GREYS = (b"MONOCHROME1", b"MONOCHROME2", b"PALETTE COLOR")


def settle(index: Index, spool: Spool, executor: Executor, study: str) -> None:
    """Find out what the editions of a study changed that came since it was read and were compared with none yet.

    Raises:
        WarmProcessError, RuntimeError: the reading process died, took too long or could not be started.
    """
    pairs = index.unsettled(study)
    if not pairs:
        return

    def files(names: list[str]) -> SeriesRef:
        uids = (one.sop_instance_uid for one in pairs)
        named = (InstanceRef(uid, "", str(spool.path(name))) for uid, name in zip(uids, names, strict=True))
        return SeriesRef(study, "", "", "", "", tuple(named))

    request = ReadRequest(
        model="",
        study=study,
        series=(files([one.before for one in pairs]), files([one.file for one in pairs])),
        site="",
        created=0.0,
        wanted=(),
        known={},
        data_dir=None,
    )
    for one, change in zip(pairs, executor.submit(changes, lent(request)).result(), strict=True):
        index.settle(study, one.sop_instance_uid, one.edition, change)
        log = logger().bind(study=study, instance=one.sop_instance_uid, edition=one.edition)
        log.info("instance.compared", reason=_SAID[change])


def changes(request: ReadRequest) -> tuple[Change, ...]:
    """What each image of the request's second series changes against that of the first; runs in the reading process."""
    before, after = request.series
    pairs = zip(before.instances, after.instances, strict=True)
    return tuple(change(one.content, other.content) for one, other in pairs)


def change(before: Content, after: Content) -> Change:
    """What one edition changes against another: "none", "quality" or "safety"."""
    try:
        with guarded():
            one, other = (_meaning(content) for content in (before, after))
            differing = differing_tags(one, other)
            if not any(each.values.get(_PHOTOMETRIC, b"") in _GREYS for each in (one, other)):
                differing -= {_PHOTOMETRIC, _PLANAR}  # colours are compared as RGB
            if differing & SAFETY or not same_pixels(before, after):
                return "safety"
    except ReadingError:
        return "safety"
    return "quality" if differing else "none"


def _meaning(content: Content) -> Meaning:
    """What the attributes of a file say.

    Raises:
        ValueError, struct.error, OSError: the file cannot be parsed, or is too large.
    """
    with open_content(content) as file:
        refuse_bomb(file)
        syntax = UID(file_meta(file).TransferSyntaxUID)
        data_set: BinaryIO = file
        if syntax == DeflatedExplicitVRLittleEndian:
            data_set = BytesIO(zlib.decompress(file.read(), -zlib.MAX_WBITS))
        return Meaning(data_set, syntax, COMPARED, most_elements=_MOST_ELEMENTS, most_bytes=_MOST_BYTES)


_SAID: dict[Change, str] = {
    "none": "the image says the same as before in another form: the earlier reading stands",
    "quality": "the image is changed in what a reading or its results use",
    "safety": "the image is changed in patient, side or pixels, or cannot be compared",
}
