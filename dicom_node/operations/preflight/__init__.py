"""``dicom-node check --peer NAME``: is this PACS ready for our results? For use before the first study.

The pre-flight sends a test study to the PACS as the node would send it. Then it queries and retrieves the objects, to
find out which the PACS accepted, kept and changed. :mod:`reach` connects, :mod:`study` makes the objects,
:mod:`storing` sends them, :mod:`asking` queries and retrieves them, :mod:`compare` compares them with what was sent.
The pre-flight needs no running node and does not disturb one. It writes nothing into ``data_dir`` but what the PACS
accepts, into the index of a node that has run there: by that the node encodes pictures.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Generator, Iterator
from datetime import datetime
from pathlib import Path

from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_node.config.load import load
from dicom_node.config.settings import Peer, Profile, Settings
from dicom_node.delivery.accepted import note
from dicom_node.errors import ConfigError
from dicom_node.index.index import open_index
from dicom_node.log import printable
from dicom_node.network.attempt import Attempt
from dicom_node.network.requestor import AssociationError, Requestor, uncompressed
from dicom_node.network.status import status_text
from dicom_node.network.verification_scu import VERIFICATION, echo
from dicom_node.operations.check import Point
from dicom_node.operations.preflight.reach import Limits, NoAnswerError, NoAssociationError, Target

__all__ = ["Limits", "points"]


def points(config: Path, name: str, *, reject: bool = False, limits: Limits | None = None) -> Iterator[Point]:
    """Every step of the pre-flight of the peer ``name``, each as soon as it is known.

    With ``reject`` the test objects are rejected at the end (IHE IOCM), so that an archive hides them.
    """
    limits = limits or Limits()
    try:
        settings = load(config)
    except ConfigError as error:
        for line in str(error).splitlines():
            yield Point("FAIL", "configuration", line)
        return
    peer = next((one for one in settings.peers if one.name == name), None)
    if peer is None or not peer.destination:
        what = "is no destination" if peer else "is no peer"
        known = ", ".join(one.name for one in settings.destinations()) or "none"
        yield Point("FAIL", "configuration", f"{config}: {name!r} {what}; peers with destination = true: {known}")
        return
    ours, theirs = settings.node.ae_title, peer.ae_title
    profiles = _profiles(settings, peer)
    wanted = "; ".join(f"{', '.join(profile.made)} ({routes})" for routes, profile in profiles)
    yield Point(
        "ok" if any(name in route.to for route in settings.routes) else "warn",
        "configuration",
        f"{config}: peer {name} is {theirs} at {peer.host}:{peer.port}, our AE title is {ours}; it gets {wanted}",
    )
    target = Target(ours, peer, limits, time.monotonic() + limits.whole)
    reached = yield from _reach(target)
    if not reached:
        return
    if peer.commitment:
        yield _commitment(target, settings.node.port)
    # What draws, encodes and compares takes a second to load. A PACS that cannot be reached is told before that.
    from dicom_node.operations.preflight.storing import Preflight  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="dicom-node-preflight-") as folder:
        preflight = Preflight(
            target,
            Path(folder),
            profiles,
            datetime.now().astimezone(),
            hours=settings.node.deliver_for_hours,
            record=lambda attempt: _record(settings, peer, attempt),
        )
        yield from preflight.points(reject=reject)


def _record(settings: Settings, peer: Peer, attempt: Attempt) -> bool:
    """Record what the PACS accepted in the node's index, beside the node that may run; whether there is one."""
    try:
        index = open_index(settings.node.data_dir)
    except ConfigError:
        return False
    try:
        note(index, peer.name, attempt, time.time())
    except sqlite3.Error:  # another user's file, or a full disk
        return False
    finally:
        index.close()
    return True


def _profiles(settings: Settings, peer: Peer) -> list[tuple[str, Profile]]:
    """The profiles of the results for a destination: each once, with the routes that have it."""
    by_digest: dict[str, tuple[list[str], Profile]] = {}
    for route in settings.routes:
        if peer.name in route.to:
            profile = settings.profile(route, peer.name)
            by_digest.setdefault(profile.digest, ([], profile))[0].append(route.name)
    if not by_digest:
        return [("by default: no route sends to it", Profile(**peer.wishes()))]
    return [(f"route{'s' * (len(names) > 1)} {', '.join(names)}", profile) for names, profile in by_digest.values()]


def _reach(target: Target) -> Generator[Point, None, bool]:
    """Host name, connection, association and C-ECHO. Returns whether an association is possible."""
    what = "host name"
    try:
        yield Point("ok", what, target.resolve())
        what = "connection"
        yield Point("ok", what, target.connect())
        what = "association"
        with target.call(uncompressed((VERIFICATION,))) as requestor:
            yield Point("ok", what, f"{target.peer.ae_title} takes calls from {target.ours}; {_software(requestor)}")
            yield _echo(requestor, target.limits)
    except NoAssociationError as error:
        if not error.contexts:
            yield Point("FAIL", what, str(error))
            return False
        yield Point("warn", "C-ECHO", "it takes our call, but does not offer the Verification service")
    except NoAnswerError as error:
        yield Point("FAIL", what, str(error))
        return False
    return True


def _commitment(target: Target, port: int) -> Point:
    """Whether the PACS offers storage commitment. Its answers are not tested, since a running node has the port."""
    what = "commitment"
    try:
        with target.call(uncompressed((StorageCommitmentPushModel,))):
            return Point("ok", what, f"offered; its answers must reach {target.ours} at this machine's port {port}")
    except NoAnswerError as error:
        fix = f"have it switched on there for {target.ours}, or set commitment = false on peer {target.peer.name}"
        return Point("FAIL", what, f"storage commitment is not offered ({error}): {fix}")


def _echo(requestor: Requestor, limits: Limits) -> Point:
    """C-ECHO. The pre-flight goes on if it fails, since some PACS do not support it."""
    try:
        status = echo(requestor)
    except AssociationError:  # the association has ended meanwhile, and another one cannot be had
        status = None
    if status is None:
        return Point("warn", "C-ECHO", f"no answer within {limits.answer:g} s, or the association was ended")
    return Point("ok" if status == 0x0000 else "warn", "C-ECHO", f"answered {status_text(status)}")


def _software(requestor: Requestor) -> str:
    said = requestor.attempt.implementation if requestor.attempt is not None else ""
    return f"its software calls itself {printable(said, 64)!r}" if said else "it does not say what software it is"
