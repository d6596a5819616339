"""A Storage SCU for files: what a modality does, for the demo. The bytes of each data set are sent as they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.uid import UID
from pynetdicom import evt

from dicom_node.dicom.files import read_meta
from dicom_node.errors import NodeError
from dicom_node.network.pynetdicom_setup import application_entity, on_open

_CONTEXTS = 128  # PS3.8 9.3.2.2: what one association may propose
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """An AE to push to."""

    ae_title: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Pushed:
    """How a file fared: the C-STORE status (None: no context was accepted), and when it was answered (epoch s)."""

    path: Path
    status: int | None
    answered: float


def push(
    files: Sequence[Path], target: Target, *, calling_ae: str, on_answer: Callable[[Pushed], None] = lambda _: None
) -> list[Pushed]:
    """C-STORE ``files`` in order, over as few associations as their presentation contexts allow.

    Raises:
        NodeError: the target cannot be reached, rejects us, or goes away in between.
    """
    done: list[Pushed] = []
    for batch in _batches(files):
        ae = application_entity(calling_ae)
        ae.connection_timeout = ae.acse_timeout = 10
        ae.dimse_timeout = ae.network_timeout = _SECONDS
        for sop_class, syntax in dict.fromkeys(key for _, key in batch):
            ae.add_requested_context(sop_class, syntax)
        handlers: list[Any] = [(evt.EVT_CONN_OPEN, on_open)]
        try:
            association = ae.associate(target.host, target.port, ae_title=target.ae_title, evt_handlers=handlers)
        except (OSError, UnicodeError) as error:
            raise NodeError(f"{target.ae_title}: host name {target.host!r} cannot be resolved") from error
        if not association.is_established and association.rejected_contexts:
            done += [Pushed(path, None, time.time()) for path, _ in batch]  # it takes none of these kinds of object
            continue
        if not association.is_established:
            why = "rejected the association" if association.is_rejected else "cannot be reached"
            raise NodeError(f"{target.ae_title} at {target.host}:{target.port} {why}")
        try:
            for path, _ in batch:
                pushed = Pushed(path, _store(association, path, target), time.time())
                done.append(pushed)
                on_answer(pushed)
        finally:
            if association.is_established:
                association.release()
    return done


def _store(association: Any, path: Path, target: Target) -> int | None:
    try:
        answer = association.send_c_store(path)
    except ValueError:  # pynetdicom's word for: no accepted context fits
        return None
    except RuntimeError as error:
        raise NodeError(f"{target.ae_title} at {target.host}:{target.port} ended the association") from error
    if "Status" not in answer:
        raise NodeError(f"{target.ae_title} at {target.host}:{target.port} did not answer a C-STORE")
    return int(answer.Status)


def _batches(files: Sequence[Path]) -> Iterator[list[tuple[Path, tuple[UID, UID]]]]:
    batch: list[tuple[Path, tuple[UID, UID]]] = []
    contexts: set[tuple[UID, UID]] = set()
    for path in files:
        meta = read_meta(path)
        key = (UID(meta.MediaStorageSOPClassUID), UID(meta.TransferSyntaxUID))
        if len(contexts | {key}) > _CONTEXTS:
            yield batch
            batch, contexts = [], set()
        contexts.add(key)
        batch.append((path, key))
    if batch:
        yield batch
