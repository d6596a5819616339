"""The models of a warm process: loaded at its start, and what could not be loaded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ai.bundle.pins import Pinned, TamperedError
from ai.contract import BusyError, Model
from ai.engine import process
from ai.engine.devices import devices
from ai.engine.shelf import Loaded, Shelf, Title, out_of_memory
from ai.inference import bundle_model
from dicom_node.log import silence_libraries

_NICE = 10  # of 19: reading leaves a busy processor to receiving, which a modality waits for


_NICE_IN_BACKGROUND = 15  # and what nobody waits for leaves it to reading


_OOM_SCORE = "800"  # of 1000: where memory runs out it is ended, and no process that somebody waits for


@dataclass(frozen=True, slots=True)
class Broken:
    """A bundle that could not be loaded, and why; ``path`` is None where its files are not what was pinned."""

    path: Path | None
    reason: str


@dataclass(frozen=True, slots=True)
class Warm:
    """What the warm process keeps: the models, and what is to be told of each."""

    models: dict[str, Model | Broken]
    bundles: Mapping[str, Pinned]
    shelf: Shelf
    complaint: str
    waiting: dict[str, str]


@dataclass(frozen=True, slots=True)
class Loads:
    """How loading went: ``failed`` and ``waiting`` models with the reason, the ``loaded`` ones with their device.

    A model that waits has no room beside the others and is loaded when a study needs it. ``complaint`` is about the
    device that the configuration asks for.
    """

    loaded: Mapping[str, str]
    waiting: Mapping[str, str]
    failed: Mapping[str, str]
    complaint: str


def load_models(bundles: Mapping[str, Pinned], device: str, *, background: bool = False) -> Warm:
    """Load every bundle that there is room for, and everything that encoding needs; runs in the warm process.

    One in the ``background`` leaves the processor to the others wherever they want it, and is the one that the system
    ends where memory runs out.
    """
    os.nice(_NICE_IN_BACKGROUND if background else _NICE)
    if background:
        with suppress(OSError):  # not every system has it
            Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    import dicom_node.results  # noqa: PLC0415 - highdicom, torch and monai stay out of the receiver's process

    silence_libraries()
    dicom_node.results.warm_up()
    there, complaint = devices(device)
    titles: dict[str, Title] = {}
    models: dict[str, Model | Broken] = {}
    for name, pinned in bundles.items():
        try:
            titles[name] = _title(pinned)
        except bundle_model.BundleError as error:
            models[name] = broken_by(pinned, error)
    shelf = Shelf(titles, there, out_of_memory())
    waiting: dict[str, str] = {}
    for name in titles:  # one damaged bundle must not keep the others from reading
        try:
            shelf.warm(name)
            models[name] = shelf[name]
        except BusyError as error:
            models[name] = shelf[name]
            waiting[name] = str(error)
        except bundle_model.BundleError as error:
            models[name] = broken_by(bundles[name], error)
    return Warm(models, bundles, shelf, complaint, waiting)


def _title(pinned: Pinned) -> Title:
    """What the shelf knows of a bundle, whose files are compared with their pins now and at each loading."""
    pinned.check()
    title = bundle_model.title(pinned.path)
    return dataclasses.replace(title, load=partial(_load, pinned, title.load))


def _load(pinned: Pinned, load: Callable[[str], Loaded], device: str) -> Loaded:
    pinned.check()
    return load(device)


def broken_by(pinned: Pinned, error: bundle_model.BundleError) -> Broken:
    """What was tampered with is not even asked what it would have read."""
    return Broken(None if isinstance(error, TamperedError) else pinned.path, str(error))


def loads() -> Loads:
    """How loading went; runs in the warm process."""
    warm: Warm = process.state()
    failed = {name: model.reason for name, model in warm.models.items() if isinstance(model, Broken)}
    return Loads(warm.shelf.places(), warm.waiting, failed, warm.complaint)


def loader(bundles: Mapping[str, Pinned], device: str, *, background: bool = False) -> Callable[[], Warm]:
    """`load_models` as the picklable function that the warm process starts with."""
    return partial(load_models, dict(bundles), device, background=background)
