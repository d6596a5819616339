"""Models that share devices: each is loaded where memory is free, and the least recently used one makes room.

Free memory is checked before a model is loaded. If a GPU runs out of memory during a reading, the other models leave it
and the reading is repeated. If that fails too, the reading is done on the CPU, and says so.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

from ai.contract import DEFAULT, Asked, BusyError, Model, ModelIdentity, Reading, Selection, SeriesRef
from ai.engine.devices import CPU, Device

_MIB = 1024**2
_MARGIN = 256 * _MIB  # what a reading needs beside the weights, until it was measured


class Loaded(Model, Protocol):
    """A model with its weights in memory, on a device."""

    def to(self, device: str) -> None:
        """Move the weights to another device of torch."""


@dataclass(frozen=True, slots=True)
class Title:
    """What the shelf knows of a model before it is loaded.

    ``bytes`` is the size of its weights. ``load`` loads it onto the device with the given name and runs it once.
    """

    identity: ModelIdentity
    select: Callable[[Sequence[SeriesRef]], Selection]
    bytes: int
    load: Callable[[str], Loaded]


@dataclass(slots=True)
class _Copy:
    title: Title
    need: int
    model: Loaded | None = None
    device: Device | None = None
    used: int = 0
    remarks: list[str] = field(default_factory=list)


class Shelf(Mapping[str, Model]):
    """The models of a process by their names. Each can be used at any time; it is loaded when it is needed.

    Args:
        titles: the models.
        devices: where models may run, best first; the CPU is the last.
        out_of_memory: the error that torch raises if a device has no memory left.
    """

    def __init__(
        self, titles: Mapping[str, Title], devices: Sequence[Device], out_of_memory: type[BaseException]
    ) -> None:
        self._copies = {name: _Copy(title, title.bytes + _MARGIN) for name, title in titles.items()}
        self._devices = tuple(devices)
        self._out_of_memory = out_of_memory
        self._clock = count(1)

    def __getitem__(self, name: str) -> Model:
        return _Shelved(self, self._copies[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._copies)

    def __len__(self) -> int:
        return len(self._copies)

    def places(self) -> dict[str, str]:
        """The device of each loaded model."""
        return {name: copy.device.name for name, copy in self._copies.items() if copy.device is not None}

    def warm(self, name: str) -> None:
        """Load a model if no other model has to leave its device.

        Raises:
            BusyError: there is no memory for it beside the others; it is loaded when it is needed.
            BundleError: it cannot be loaded.
        """
        self._fetch(self._copies[name], evict=False)

    def read(self, copy: _Copy, selection: Selection, asked: Asked) -> Reading:
        """Read with a model on the best device that has memory for it."""
        copy.remarks.clear()
        model, device = self._fetch(copy, evict=True)
        reading: Reading | None = None
        try:
            with suppress(self._out_of_memory):
                reading = model.read(selection, asked)
            if reading is None:  # after the error was released, which holds the memory that filled the device
                reading, device = self._again(copy, device, selection, asked)
        except MemoryError:
            raise BusyError("the machine has no memory left for this reading") from None
        return replace(reading, device=device.name, remarks=(*reading.remarks, *copy.remarks))

    def _again(self, copy: _Copy, device: Device, selection: Selection, asked: Asked) -> tuple[Reading, Device]:
        """Repeat the reading: on the same device without other models, then on the CPU."""
        if device.name == CPU:
            raise BusyError("the machine has no memory left for this reading")
        model = copy.model
        if model is None:
            raise RuntimeError("a model that has just read is not loaded")
        if others := self._on(device, but=copy):
            for other in others:
                self._leave(other)
            with suppress(self._out_of_memory):
                return model.read(selection, asked), device
        self._leave(copy)
        cpu = self._devices[-1]
        if copy.device is not cpu:
            self._load(copy, cpu)
        copy.remarks.append(f"read on the CPU: {device.name} ran out of memory")
        if copy.model is None:
            raise RuntimeError("a model that was loaded onto the CPU is not there")
        return copy.model.read(selection, asked), cpu

    def _fetch(self, copy: _Copy, *, evict: bool) -> tuple[Loaded, Device]:
        copy.used = next(self._clock)
        reasons = []
        for device in self._devices:
            if copy.device is device and copy.model is not None:
                return copy.model, device
            if not self._room(copy, device, evict=evict):
                free = device.free() or 0
                reasons.append(f"{device.name} has {free // _MIB} MiB free")
                continue
            try:
                self._load(copy, device)
            except (self._out_of_memory, MemoryError):
                self._leave(copy, drop=True)
                reasons.append(f"{device.name} ran out of memory")
                continue
            if reasons:
                copy.remarks.append(f"read on {device.name}: {'; '.join(reasons)}, {copy.need // _MIB} MiB are needed")
            if copy.model is not None:
                return copy.model, device
        raise BusyError(
            f"model {copy.title.identity.name} needs about {copy.need // _MIB} MiB of memory: {'; '.join(reasons)}"
        )

    def _load(self, copy: _Copy, device: Device) -> None:
        if copy.model is None:
            before = device.free()
            copy.model = copy.title.load(device.name)
            copy.device = device
            after = device.free()
            if device.name != CPU and before is not None and after is not None:
                copy.need = max(copy.need, before - after + _MARGIN)
            return
        copy.device = None  # a move that fails leaves parts of it on both devices
        copy.model.to(device.name)
        copy.device = device

    def _room(self, copy: _Copy, device: Device, *, evict: bool) -> bool:
        """Whether a device has memory for a model; with ``evict`` the least recently used ones leave it first."""
        others = self._on(device, but=copy) if evict else []
        held = sum(other.need - _MARGIN for other in others)
        while (free := device.free()) is not None and free < copy.need:
            if not others or free + held < copy.need:  # it would not fit even without the others
                return False
            first = others.pop(0)
            held -= first.need - _MARGIN
            self._leave(first, drop=device.name == CPU)
        return True

    def _on(self, device: Device, but: _Copy) -> list[_Copy]:
        """The other models on a device, the least recently used first."""
        there = (copy for copy in self._copies.values() if copy is not but and copy.device is device)
        return sorted(there, key=lambda copy: copy.used)

    def _leave(self, copy: _Copy, *, drop: bool = False) -> None:
        """Take a model off its device: to the CPU if it has memory, which is quick to undo, else unload it."""
        cpu = self._devices[-1]
        free = cpu.free()
        if not drop and copy.model is not None and (free is None or free >= copy.need):
            self._load(copy, cpu)
        else:
            copy.model, copy.device = None, None
        gc.collect()
        _give_back()


class _Shelved:
    """A model on the shelf, as an `ai.contract.Model`."""

    def __init__(self, shelf: Shelf, copy: _Copy) -> None:
        self._shelf = shelf
        self._copy = copy

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest; the model need not be loaded."""
        return self._copy.title.identity

    def select(self, series: Sequence[SeriesRef]) -> Selection:
        """Choose what to read by headers alone; the model need not be loaded."""
        return self._copy.title.select(series)

    def read(self, selection: Selection, asked: Asked = DEFAULT) -> Reading:
        """Read the chosen instances on the best device that has memory.

        Raises:
            ReadingError: see `ai.contract.Model`.
            BusyError: no device has the memory now.
            BundleError: the model was not loaded yet and cannot be loaded.
        """
        return self._shelf.read(self._copy, selection, asked)


def _give_back() -> None:
    """Return unused GPU memory from torch to the driver: only then can other processes use it."""
    import torch  # noqa: PLC0415  (see ai.engine.devices)

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory() -> type[BaseException]:
    """The error that torch raises if a GPU has no memory left."""
    import torch  # noqa: PLC0415  (see ai.engine.devices)

    error: Any = torch.OutOfMemoryError
    return error  # type: ignore[no-any-return]
