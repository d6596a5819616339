"""The Storage SCU: the one way in which the node sends an object by C-STORE (PS3.4 annex B)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.config.settings import Peer
from dicom_node.dicom.compressed import SYNTAXES, decompressed
from dicom_node.dicom.files import read_meta
from dicom_node.dicom.implicit_vr import as_implicit, made_implicit
from dicom_node.network.requestor import Context, NoContextError, Requestor
from dicom_node.network.status import Verdict, comment, status_text, verdict

_CONTEXTS = 128  # PS3.8 9.3.2.2: as many as one association may propose


@dataclass(frozen=True, slots=True)
class Response:
    """A C-STORE response (PS3.7 9.3.1.2): its status, and what the peer says beside it (may be empty)."""

    status: int
    comment: str = ""

    @property
    def verdict(self) -> Verdict:
        """What it means for the object."""
        return verdict(self.status)

    @property
    def text(self) -> str:
        """The status, its meaning, and what the peer says beside it, for a person."""
        return f"{status_text(self.status)}{self.comment}"


def store(requestor: Requestor, path: Path) -> Response | None:
    """C-STORE a DICOM file.

    The bytes of its data set are sent as they are where the peer accepts its transfer syntax. Otherwise a file whose
    pixels are compressed as those of results are is sent decompressed (:mod:`dicom_node.dicom.compressed`), and an
    Explicit VR Little Endian file in Implicit VR Little Endian.

    Returns:
        None if the peer accepted no presentation context in which the file can be sent.

    Raises:
        AssociationError: there is no association.
        Retryable: there is no response; the association is aborted.
        NodeError: the file is not a DICOM file.
    """
    meta = read_meta(path)
    association = requestor.open()
    accepted = requestor.accepted(meta.MediaStorageSOPClassUID)
    what = _as_accepted(path, meta.TransferSyntaxUID, accepted)
    if what is None:
        return None
    try:
        response = association.send_c_store(what)
    except (RuntimeError, OSError) as error:
        raise requestor.broken("sending") from error
    if "Status" not in response:
        raise requestor.lost()
    return Response(int(response.Status), comment(response))


def _as_accepted(path: Path, syntax: str, accepted: frozenset[str]) -> Path | Dataset | None:
    """A file, or its data set in a transfer syntax that the peer accepts. None if it cannot be had in any."""
    if syntax in accepted:
        return path
    explicit, implicit = ExplicitVRLittleEndian in accepted, ImplicitVRLittleEndian in accepted
    if syntax == ExplicitVRLittleEndian:
        return as_implicit(path) if implicit else None
    if syntax not in SYNTAXES or not (explicit or implicit):
        return None
    dataset = decompressed(path)
    return dataset if explicit or dataset is None else made_implicit(dataset)


@dataclass(frozen=True, slots=True)
class Pushed:
    """How a file fared: the C-STORE status (None: no context was accepted), and when it was answered (epoch s)."""

    path: Path
    status: int | None
    answered: float


def push(
    files: Sequence[Path], peer: Peer, *, calling_ae: str, on_answer: Callable[[Pushed], None] = lambda _: None
) -> list[Pushed]:
    """C-STORE ``files`` in order, over as few associations as their presentation contexts allow.

    Raises:
        NodeError: the peer cannot be reached, rejects us, or goes away in between.
    """
    done: list[Pushed] = []
    for batch, contexts in _batches(files):
        requestor = Requestor(calling_ae, peer, contexts)
        taken = True
        try:
            for path in batch:
                response = None
                try:
                    response = store(requestor, path) if taken else None
                except NoContextError:
                    taken = False  # the peer takes no kind of object in this batch
                done.append(Pushed(path, None if response is None else response.status, time.time()))
                on_answer(done[-1])
        finally:
            requestor.release()
    return done


def _batches(files: Sequence[Path]) -> Iterator[tuple[list[Path], list[Context]]]:
    """The files of each association, with the presentation contexts that it proposes."""
    batch: list[Path] = []
    contexts: dict[Context, None] = {}
    for path in files:
        wanted = dict.fromkeys(_contexts(path))
        if len(contexts | wanted) > _CONTEXTS:
            yield batch, list(contexts)
            batch, contexts = [], {}
        contexts |= wanted
        batch.append(path)
    if batch:
        yield batch, list(contexts)


def _contexts(path: Path) -> list[Context]:
    """In which presentation contexts `store` can send a file."""
    meta = read_meta(path)
    sop_class, syntax = str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
    implicit = [str(ImplicitVRLittleEndian)] if syntax == ExplicitVRLittleEndian else []
    return [(sop_class, each) for each in (syntax, *implicit)]
