"""``dicom-node check``: the configuration, the machine and the peers, point by point, before a node is started."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydicom.uid import UID

from ai.bundle.files import BundleError, describe
from ai.bundle.manifest import ReadingSpec
from ai.bundle.pins import Pinned
from ai.cage import walls
from ai.engine import devices
from ai.images import codecs
from dicom_node.clock import SteadyClock
from dicom_node.config.load import load
from dicom_node.config.settings import Peer, Settings
from dicom_node.config.values import is_loopback
from dicom_node.errors import ConfigError, ModelError
from dicom_node.index.commitments import peers_that_ask
from dicom_node.index.index import INDEX_FILE
from dicom_node.log import printable
from dicom_node.models import asked
from dicom_node.models.cage import cage_of
from dicom_node.models.install import trials
from dicom_node.models.registry import Models
from dicom_node.models.users import user_name
from dicom_node.network.requestor import AssociationError, Requestor, Timeouts, uncompressed
from dicom_node.network.status import status_text
from dicom_node.network.verification_scu import VERIFICATION, echo
from dicom_node.operations import clock_watch, upgrade
from dicom_node.scp.commitment import BIND, NOT_BOUND
from dicom_node.storage.spool import Spool

_LOW_SPACE = 5 * 1024**3


@dataclass(frozen=True, slots=True)
class Point:
    """One line of the report. FAIL: a node would not start or could not work; warn: something that IT should know."""

    verdict: Literal["ok", "warn", "FAIL"]
    what: str
    text: str


def points(config: Path) -> Iterator[Point]:
    """Check everything, and yield each point as soon as it is known."""
    try:
        settings = load(config)
    except ConfigError as error:
        for line in str(error).splitlines():
            yield Point("FAIL", "configuration", line)
        return
    yield Point(
        "ok",
        "configuration",
        f"{config}: {len(settings.peers)} peers, {len(settings.routes)} routes, AE title {settings.node.ae_title}",
    )
    if settings.node.accept_unknown_callers and not is_loopback(settings.node.host):
        yield Point("warn", "callers", "accept_unknown_callers = true: anybody on the network may store here")
    yield _folder(settings.node.data_dir, settings.node.keep_free_gb)
    if settings.node.data_dir.is_dir() and (found := Spool(settings.node.data_dir).others_may()):
        yield Point("warn", "data_dir", f"{settings.node.data_dir}: {found}; the next start closes it to them")
    yield _port(settings, running=Spool(settings.node.data_dir).in_use())
    yield from _devices(settings.node.device)
    yield from _cage(settings)
    yield from _models(settings)
    yield from _plugins()
    for peer in settings.destinations():
        yield _echo(settings, peer)
    yield from _unbound(settings)
    if settings.retention.days is not None and (
        doubt := clock_watch.doubts(settings.node.data_dir, SteadyClock().offset())
    ):
        yield Point("warn", "clock", f"{doubt}: retention removes nothing; {clock_watch.CONFIRM}")
    yield from _news(settings.node.data_dir)


def _unbound(settings: Settings) -> Iterator[Point]:
    """Who has asked for commitment and gets none."""
    peers = [] if settings.retention.commits else peers_that_ask(settings.node.data_dir / INDEX_FILE)
    if peers:
        yield Point("warn", "commitment", f"{', '.join(map(printable, peers))}: {NOT_BOUND}: none is given; {BIND}")


def _news(data_dir: Path) -> Iterator[Point]:
    """What changed for this site with an upgrade; once, and last, where it is seen."""
    changes = upgrade.news(data_dir)
    for text in changes:
        yield Point("warn", "new in this version", text)
    if changes and not upgrade.remember(data_dir):
        yield Point("warn", "new in this version", f"to be told once alone, check as the user that owns {data_dir}")


def _folder(folder: Path, keep_free_gb: float) -> Point:
    """Whether the node can write there. A missing folder is not made: it would belong to the user of this check."""
    me = user_name(os.geteuid())
    owner = me
    try:
        there = folder
        while not os.path.lexists(there):
            there = there.parent
        if not there.is_dir():
            return Point("FAIL", "data_dir", f"{folder}: cannot be written: {there} is no folder")
        if there == folder:
            owner = user_name(folder.stat().st_uid)
            with tempfile.NamedTemporaryFile(dir=folder) as probe:
                probe.write(b"probe")
                probe.flush()
                os.fsync(probe.fileno())
            text = "writable"
        elif os.access(there, os.W_OK | os.X_OK):
            text = f"does not exist yet; it will be made at the first start in {there}, which {me} may write"
        else:
            return Point(
                "FAIL", "data_dir", f"{folder}: is not there, and {me} may not make it: {there} cannot be written"
            )
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Point("FAIL", "data_dir", f"{folder}: cannot be written: {error.strerror}")
    text = f"{folder}: {text}, {free / 1024**3:.1f} GiB free"
    if owner != me:
        text += f"; it belongs to {owner}, but this check runs as {me}: check as the user that the node runs as"
    if free < keep_free_gb * 1e9:
        return Point("FAIL", "data_dir", f"{text}: no image would be taken, as node.keep_free_gb is {keep_free_gb:g}")
    return Point("warn" if free < _LOW_SPACE or owner != me else "ok", "data_dir", text)


def _port(settings: Settings, *, running: bool) -> Point:
    node = settings.node
    where = f"{node.host}:{node.port}"
    try:
        family = socket.getaddrinfo(node.host, node.port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((node.host, node.port))
    except OSError as error:
        if running:
            return Point("ok", "port", f"{where}: a node is running on this data folder")
        return Point("FAIL", "port", f"cannot listen on {where}: {error.strerror or error}")
    return Point("ok", "port", f"{where} is free")


def _devices(wanted: str) -> Iterator[Point]:
    there, complaint = devices.devices(wanted)
    if complaint:
        yield Point("warn", "device", complaint)
    for device in there:
        free = device.free()
        yield Point("ok", "device", f"{device.name}: {'unknown' if free is None else f'{free / 1024**3:.1f} GiB'} free")


def _models(settings: Settings) -> Iterator[Point]:
    store = Models(settings.node.data_dir)
    reading = settings.reading_models()
    specs: dict[str, ReadingSpec] = {}
    found: dict[str, Pinned] = {}
    faults: dict[str, ModelError | BundleError] = {}
    for name in settings.models():
        try:
            pinned = store.current(name).pinned()
            pinned.check()
            found[name] = pinned
        except (ModelError, BundleError) as error:
            faults[name] = error
    with trials(cage_of(settings, found)) as attempt:  # what a bundle runs, it runs in the cage here as well
        for name in settings.models():
            began = time.perf_counter()
            fault: Exception | None = faults.get(name)
            if fault is None:
                try:
                    info = describe(found[name].path)
                    attempt(found[name].path)
                except (ModelError, BundleError) as error:
                    fault = BundleError(str(error))
            if fault is not None:
                if name in reading or isinstance(fault, ModelError):
                    yield Point("FAIL", f"model {name}", str(fault))
                else:
                    means = "it reads in shadow alone, so the node runs without it"
                    yield Point("warn", f"model {name}", f"{fault}; {means}")
                continue
            identity, specs[name] = info.identity, info.spec
            took = time.perf_counter() - began
            notice = f"; {identity.notice}" if identity.notice else ""
            shadow = ", ".join(route.name for route in settings.routes if name in route.shadow)
            yield Point(
                "ok",
                f"model {name}",
                f"version {identity.version}, files {identity.digest[:12]}, loads in {took:.1f} s{notice}"
                + (f"; in shadow of route {shadow}: recorded, not sent" if shadow else ""),
            )
    for wrong in asked.faults(settings, specs):
        yield Point("FAIL", "routes", wrong)


def _cage(settings: Settings) -> Iterator[Point]:
    """Which walls stand around the processes that decode images and run models."""
    index = settings.node.data_dir / "index.sqlite"
    for wall in walls.standing(cage_of(settings, {}), index if index.is_file() else None):
        yield Point("ok" if wall.stands else "warn", f"cage, {wall.name}", wall.text)


def _plugins() -> Iterator[Point]:
    missing = codecs.missing()
    for syntax in codecs.DECODERS:
        name = UID(syntax).name
        if syntax in missing:
            yield Point("FAIL", "compressed pixels", f"{name} cannot be decoded: {missing[syntax]} is not installed")
        else:
            yield Point("ok", "compressed pixels", f"{name}: {codecs.DECODERS[syntax]}")


def _echo(settings: Settings, peer: Peer) -> Point:
    what = f"peer {peer.name}"
    at = f"{peer.ae_title} at {peer.host}:{peer.port}"
    requestor = Requestor(
        settings.node.ae_title, peer, uncompressed((VERIFICATION,)), timeouts=Timeouts(connect=5.0, answer=5.0)
    )
    try:
        status = echo(requestor)
    except AssociationError as error:
        return Point("warn", what, f"{at}: {error.why}")
    finally:
        requestor.release()
    if status == 0x0000:
        return Point("ok", what, f"{at}: answers C-ECHO")
    return Point(
        "warn",
        what,
        f"{at}: does not answer C-ECHO" if status is None else f"{at}: answered C-ECHO with {status_text(status)}",
    )
