"""The UIDs of result objects: each derives from the reading, so the same reading always has the same UIDs (PS3.5 B.2).

Start here for: the run's key (`run_key`), SOP Instance and Series Instance UIDs, Tracking UIDs, the Device UID, and
`ENCODER_VERSION`, which is raised when the encoded bytes change.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable

from ai.contract import DEFAULT, Asked, ModelIdentity

ENCODER_VERSION = 9
"""Raise it with every change to the encoded objects: other bytes must never be sent under a UID already used."""

_NAMESPACE = uuid.UUID("6f0c4d0e-6d0f-5b0a-9d6e-3c8f6a1b7e52")


def run_key(
    site: str,
    model: ModelIdentity,
    source_uids: Iterable[str],
    circumstances: str,
    asked: Asked = DEFAULT,
    *,
    withdrawals: int = 0,
) -> str:
    """The identity of a run as 64 hex digits (SHA-256): the same images read by the same model have the same key.

    The order of ``source_uids`` does not matter. ``circumstances`` is empty for a reading that succeeded; it tells
    apart one that failed, in whole or in part. A model whose places follow from the anatomy field has another key with
    other weights of the field. ``asked`` is what the model looked for; settings of the results are not
    part of the key: see :attr:`Run.objects_key`. ``withdrawals`` is how often results of this same reading were
    withdrawn: what was rejected once must never come again under its UID (IHE RAD, IOCM). The parts are encoded as a
    JSON array, so that two different inputs never give the same text.
    """
    return digest_of(
        "run",
        ENCODER_VERSION,
        site,
        sorted(set(source_uids)),
        (model.name, model.version, model.digest),
        circumstances,
        (sorted(asked.findings), asked.operating_point),
        *([withdrawals] if withdrawals else ()),
        *([["field", model.field_digest]] if model.field_digest else ()),
    )


def derived_uid(key: str, role: str, index: int) -> str:
    """The SOP Instance UID of a role's ``index``-th object (from 0): ``2.25.`` and a UUIDv5 (PS3.5 B.2).

    ``key`` is :attr:`Run.objects_key`.
    """
    return _uid("sop", key, role, index)


def series_uid(key: str, role: str) -> str:
    """The Series Instance UID of the objects of one role; ``key`` is :attr:`Run.objects_key`."""
    return _uid("series", key, role)


def tracking_uid(key: str, finding: int) -> str:
    """The Tracking UID (PS3.16 TID 4108) of the ``finding``-th finding (from 0), the same in every object.

    ``key`` is :attr:`Run.key`.
    """
    return _uid("tracking", key, finding)


def segment_uid(key: str, segmentation: int, segment: int) -> str:
    """The Tracking UID of a segment by its numbers in the reading (from 0); never that of a finding."""
    return _uid("tracking segment", key, segmentation, segment)


def device_uid(site: str, model: ModelIdentity) -> str:
    """The Device UID of a model at a site; other weights are another device (IHE AI Results 6.5.3.1)."""
    return _uid("device", site, model.name, model.version, model.digest)


def digest_of(*parts: object) -> str:
    """SHA-256 (hex) of the parts as JSON."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode("ascii")).hexdigest()


def _uid(*parts: object) -> str:
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(parts)).int}"
