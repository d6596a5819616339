"""Add a model to the store: bring the bundle, check it, show what it runs, try it in another process, then keep it.

Start here for why a bundle is rejected (:func:`add`). If anything is wrong, nothing is left behind.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ai.bundle.code import code_in, printable
from ai.bundle.files import METADATA, READING, BundleError, BundleInfo, describe, file_digests, shipped
from ai.bundle.metadata import metadata_faults
from ai.bundle.pins import Pinned
from ai.cage import Cage
from ai.contract import ReadingError
from ai.engine.process import WarmProcess, WarmProcessError
from ai.images import helpers
from ai.inference import bundle_model
from dicom_node.errors import ModelError
from dicom_node.models.records import Record
from dicom_node.models.registry import Entry, Models
from dicom_node.models.sources import Brought, Limits, Progress, bring
from dicom_node.models.users import current_user

TRIAL_SECONDS: Final = 300.0
_READING_BYTES: Final = 1024**2


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is about to be installed, for the person who decides; ``code`` has one line for each thing that it runs."""

    info: BundleInfo
    source: Brought
    code: tuple[str, ...]
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Added:
    """The result of `add`: ``new`` is False if it was already installed; ``was`` is the former current version."""

    entry: Entry
    new: bool
    was: Entry | None


def try_out(path: Path, *, seconds: float = TRIAL_SECONDS) -> dict[str, str]:
    """Load a bundle in a process in a cage, which runs it once on an input of the declared shape.

    Returns:
        what was seen, for the record.

    Raises:
        ModelError: it cannot be loaded, ends its process, or takes longer than ``seconds``.
    """
    folder = path.absolute()
    with trials(Cage(None, reads=(str(folder),), hides=(str(folder.parent),)), seconds=seconds) as attempt:
        try:
            return attempt(path)
        except ModelError as error:
            raise ModelError(f"it was tried and cannot be used: {error}") from None


@contextmanager
def trials(cage: Cage, *, seconds: float = TRIAL_SECONDS) -> Iterator[Callable[[Path], dict[str, str]]]:
    """A process in a cage for as long as the block; what it yields loads a bundle there, and tells what was seen.

    What it yields raises ModelError if the bundle cannot be loaded, ends the process or takes longer than ``seconds``.
    """
    with WarmProcess(_nothing, timeout=seconds, cage=cage, before=helpers.start, eager=False) as executor:

        def attempt(path: Path) -> dict[str, str]:
            try:
                return executor.submit(load_once, str(path)).result()
            except (ReadingError, WarmProcessError) as error:
                text = str(error).replace("the reading process", "its process")
                raise ModelError(text.replace("reading took", "loading it took")) from None

        yield attempt


def load_once(path: str) -> dict[str, str]:
    """Load a bundle and run it once; called in the other process."""
    began = time.perf_counter()
    Pinned(Path(path)).check()  # as the node does: no compiled Python is written
    try:
        bundle_model.load(Path(path))
    except BundleError as error:
        raise ReadingError(str(error)) from None
    return {"loaded and run once": f"in {time.perf_counter() - began:.1f} s"}


def _nothing() -> None:
    """The initial state of the other process: none, so that all work is done in the trial and under its time limit."""


def add(
    store: Models,
    source: str,
    *,
    confirm: Callable[[Candidate], bool],
    reading: Path | None = None,
    sha256: str = "",
    replace_shipped: bool = False,
    trust: bool = False,
    origin: str = "",
    limits: Limits | None = None,
    progress: Progress = lambda _done, _whole: None,
    trial: Callable[[Path], dict[str, str]] = try_out,
    now: Callable[[], float] = time.time,
) -> Added:
    """Install a bundle and make it the current version of its model.

    Args:
        store: the models of the node.
        source: a directory, a zip file, or the https address of a zip file.
        confirm: decides whether to install it, knowing what the bundle is and runs; a refusal leaves nothing behind.
        reading: a reading.json that replaces the bundle's own.
        sha256: the expected SHA-256 (hex) of the zip file; empty for any.
        replace_shipped: whether it may take the name of a model that ships with the node.
        trust: whether it may run more than parts of MONAI that are on the allow-list (`ai.bundle.known`).
        origin: where the bundle came from, if ``source`` was only made from that.
        limits: how much may be brought.
        progress: called with the progress of a download.
        trial: loads the bundle and returns what it saw.
        now: the clock, in epoch seconds.

    Raises:
        ModelError: the bundle is rejected; the message says why.
    """
    with store.changing() as part:
        folder = part / "bundle"
        brought = bring(source, folder, sha256=sha256, limits=limits or Limits(), progress=progress)
        if origin:
            brought = replace(brought, place=origin)
        try:
            return _add(
                store,
                part,
                brought,
                confirm=confirm,
                reading=reading,
                replace_shipped=replace_shipped,
                trust=trust,
                trial=trial,
                now=now,
            )
        except (BundleError, ModelError) as error:
            raise ModelError(str(error).replace(f"{folder}/", "").replace(str(folder), "the bundle")) from None


def _add(
    store: Models,
    part: Path,
    brought: Brought,
    *,
    confirm: Callable[[Candidate], bool],
    reading: Path | None,
    replace_shipped: bool,
    trust: bool,
    trial: Callable[[Path], dict[str, str]],
    now: Callable[[], float],
) -> Added:
    folder = part / "bundle"
    if reading is not None:
        _take_reading(reading, folder / READING)
    elif folder.is_dir() and not (folder / READING).is_file():
        raise ModelError(
            f"{READING} is missing: it says which images the model takes and what its outputs mean, which MONAI's own "
            "files do not; write one (docs/reference/reading-json.md) and give it with --reading FILE"
        )
    info = describe(folder)
    name, digest = info.identity.name, info.identity.digest
    known = store.entries(name)
    was = next((each for each in known if each.state == "current"), None)
    same = next((each for each in known if each.digest == digest), None)
    if same is not None and same.shipped:
        raise ModelError(f"model {name}, {digest[:12]} is the one that ships with the node: there is nothing to add")
    if same is not None and _is_sound(same):
        if same.state != "current":
            store.make_current(name, digest)
        return Added(store.current(name), False, was)
    if name in shipped() and was is not None and was.shipped and not replace_shipped:
        raise ModelError(
            f"model {name!r} ships with the node, and routes that name it would read with another model from then on; "
            "give the bundle another name in its reading.json, or say --replace-shipped"
        )
    files = file_digests(folder)
    faults = metadata_faults(json.loads((folder / METADATA).read_bytes()))
    if faults:
        raise ModelError(f"{METADATA} breaks MONAI's bundle specification: " + "; ".join(faults[:10]))
    size = sum((folder / each).stat().st_size for each in files)
    code = tuple(code_in(folder))
    if not confirm(Candidate(info, brought, code, len(files), size)):
        raise ModelError("nothing was installed")
    if code and not trust:
        lines = "".join(f"\n  {line[:400]}" for line in code[:20])
        raise ModelError(f"it runs more than MONAI's own parts; --trust installs it all the same:{lines}")
    if code:
        seen_code = {"runs code of its own": f"{len(code)} lines, trusted by --trust"}
    else:
        seen_code = {"runs code of its own": "no"}
    seen = trial(folder)
    if file_digests(folder) != files:
        raise ModelError("it changes its own files when it is loaded, so that they cannot be pinned")
    record = Record(
        name=name,
        version=info.identity.version,
        digest=digest,
        files=files,
        kind=brought.kind,
        place=brought.place,
        archive_sha256=brought.sha256,
        reading=printable(str(reading.absolute())) if reading else "",
        left_out=brought.left_out,
        added=datetime.fromtimestamp(now(), UTC).isoformat(timespec="seconds"),
        user=current_user(),
        replaces_shipped=name in shipped(),
        checks={"MONAI bundle specification": "metadata.json follows it", **seen_code, **seen},
    )
    store.adopt(part, record)
    return Added(store.current(name), True, was)


def _is_sound(entry: Entry) -> bool:
    """Whether an installed version is unchanged since it was checked; if it is not, it is installed again."""
    try:
        entry.pinned().check()
    except BundleError:
        return False
    return True


def _take_reading(reading: Path, to: Path) -> None:
    try:
        with reading.open("rb") as file:
            content = file.read(_READING_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{reading}: cannot be read: {error.strerror}") from error
    if len(content) > _READING_BYTES:
        raise ModelError(f"{reading}: is larger than {_READING_BYTES} bytes; a reading.json was expected")
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(content)
