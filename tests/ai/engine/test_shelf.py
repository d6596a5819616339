"""Models share devices: memory is asked for first, the least recently used makes room, a full GPU hands over."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ai.bundle.files import describe, shipped
from ai.contract import DEFAULT, Asked, BusyError, ModelIdentity, Reading, Selection, SeriesRef
from ai.engine import devices
from ai.engine.devices import Device
from ai.engine.shelf import Shelf, Title
from ai.inference import bundle_model

MIB = 1024**2
NOTHING = Selection((), ())


class FullError(Exception):
    """What a device raises that has no memory left."""


@dataclass
class Machine:
    """Two devices with a fixed memory, and what lies in it."""

    sizes: dict[str, int]
    held: dict[str, tuple[str, int]] = field(default_factory=dict)

    def free(self, device: str) -> int:
        return self.sizes[device] - sum(size for place, size in self.held.values() if place == device)

    def devices(self) -> list[Device]:
        return [Device(name, lambda name=name: self.free(name)) for name in self.sizes]  # type: ignore[misc]

    def put(self, model: str, device: str, size: int) -> None:
        self.held.pop(model, None)
        if self.free(device) < size:
            raise FullError
        self.held[model] = (device, size)


@dataclass
class Small:
    """A model that takes memory; ``needs`` is what a reading takes beside it."""

    machine: Machine
    name: str
    size: int
    needs: int
    identity: ModelIdentity

    def __del__(self) -> None:
        self.machine.held.pop(self.name, None)

    def to(self, device: str) -> None:
        self.machine.put(self.name, device, self.size)

    def select(self, series: Sequence[SeriesRef]) -> Selection:
        return NOTHING

    def read(self, selection: Selection, asked: Asked = DEFAULT) -> Reading:
        device, _ = self.machine.held[self.name]
        if self.machine.free(device) < self.needs:
            raise FullError
        return Reading(self.identity, (), (), (), (), ())


def shelf(machine: Machine, needs: int = 0, **sizes: int) -> Shelf:
    def title(name: str, size: int) -> Title:
        identity = ModelIdentity(name, "1", "0" * 64, "", "", "")

        def load(device: str) -> Small:
            machine.put(name, device, size)
            return Small(machine, name, size, needs, identity)

        return Title(identity, lambda _series: NOTHING, size, load)

    return Shelf({name: title(name, size) for name, size in sizes.items()}, machine.devices(), FullError)


def test_a_model_is_loaded_on_the_best_device_with_room() -> None:
    machine = Machine({"cuda:0": 1000 * MIB, "cpu": 9000 * MIB})
    models = shelf(machine, small=300 * MIB, large=2000 * MIB)
    assert models["small"].read(NOTHING).device == "cuda:0"
    reading = models["large"].read(NOTHING)
    assert reading.device == "cpu"
    assert reading.remarks == ("read on cpu: cuda:0 has 700 MiB free, 2256 MiB are needed",)
    assert models.places() == {"small": "cuda:0", "large": "cpu"}  # nobody left for one that does not fit


@pytest.mark.slow
def test_the_least_recently_used_makes_room_and_comes_back() -> None:
    machine = Machine({"cuda:0": 1000 * MIB, "cpu": 9000 * MIB})
    models = shelf(machine, a=300 * MIB, b=300 * MIB, c=300 * MIB)
    for name in "aba":
        models[name].read(NOTHING)
    assert models.places() == {"a": "cuda:0", "b": "cuda:0"}
    assert models["c"].read(NOTHING).device == "cuda:0"
    assert models.places() == {"a": "cuda:0", "b": "cpu", "c": "cuda:0"}
    assert models["b"].read(NOTHING).device == "cuda:0"
    assert models.places() == {"a": "cpu", "b": "cuda:0", "c": "cuda:0"}


@pytest.mark.slow
def test_where_the_cpu_has_no_room_either_the_least_recently_used_is_let_go() -> None:
    machine = Machine({"cpu": 1000 * MIB})
    models = shelf(machine, a=400 * MIB, b=400 * MIB)
    models["a"].read(NOTHING)
    models["b"].read(NOTHING)
    assert models.places() == {"b": "cpu"}
    assert models["a"].read(NOTHING).remarks == ()
    assert machine.held.keys() == {"a"}


def test_warming_lets_nobody_go() -> None:
    machine = Machine({"cpu": 1000 * MIB})
    models = shelf(machine, a=400 * MIB, b=400 * MIB)
    models.warm("a")
    with pytest.raises(BusyError, match="model b needs about 656 MiB of memory: cpu has 600 MiB free"):
        models.warm("b")
    assert models.places() == {"a": "cpu"}


def test_a_model_that_fits_nowhere_says_so_and_harms_nobody() -> None:
    machine = Machine({"cuda:0": 700 * MIB, "cpu": 1000 * MIB})
    models = shelf(machine, a=400 * MIB, huge=2000 * MIB)
    models["a"].read(NOTHING)
    with pytest.raises(BusyError, match=r"model huge needs about 2256 MiB .*cuda:0 has 300 MiB free; cpu has 1000 MiB"):
        models["huge"].read(NOTHING)
    assert models.places() == {"a": "cuda:0"}


def test_out_of_memory_while_reading_sends_the_others_away_and_tries_again() -> None:
    machine = Machine({"cuda:0": 1000 * MIB, "cpu": 9000 * MIB})
    models = shelf(machine, needs=500 * MIB, a=300 * MIB, b=300 * MIB)
    models.warm("a")
    models.warm("b")
    reading = models["b"].read(NOTHING)
    assert (reading.device, reading.remarks) == ("cuda:0", ())
    assert models.places() == {"a": "cpu", "b": "cuda:0"}


@pytest.mark.slow
def test_out_of_memory_with_the_gpu_to_itself_falls_back_to_the_cpu_and_says_so() -> None:
    machine = Machine({"cuda:0": 1000 * MIB, "cpu": 9000 * MIB})
    models = shelf(machine, needs=900 * MIB, a=300 * MIB, b=100 * MIB)
    models.warm("b")
    reading = models["a"].read(NOTHING)
    assert (reading.device, reading.remarks) == ("cpu", ("read on the CPU: cuda:0 ran out of memory",))
    assert models["a"].read(NOTHING).device == "cpu"  # tried on the GPU first, each time: images differ in size


def test_out_of_memory_on_the_cpu_is_told_and_may_pass() -> None:
    machine = Machine({"cpu": 1000 * MIB})
    models = shelf(machine, needs=900 * MIB, a=300 * MIB)
    with pytest.raises(BusyError, match="no memory left"):
        models["a"].read(NOTHING)


def test_a_real_bundle_on_the_shelf_reads_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "phantom_cxr"
    shutil.copytree(shipped()["phantom_cxr"], path)
    title = bundle_model.title(path)
    assert title.bytes == (path / "models" / "model.pt").stat().st_size
    there, complaint = devices.devices("cpu")
    models = Shelf({"phantom_cxr": title}, there, MemoryError)
    assert complaint == ""
    identity = models["phantom_cxr"].identity
    assert (identity.name, identity.digest) == ("phantom_cxr", describe(path).identity.digest)
    assert models.places() == {}
    models.warm("phantom_cxr")
    assert models.places() == {"phantom_cxr": "cpu"}


def test_a_gpu_that_is_not_there_is_a_complaint_and_the_cpu() -> None:
    there, complaint = devices.devices("cuda:97")
    assert there[-1].name == "cpu"
    assert "cuda:97 was asked for, but torch sees" in complaint
    assert devices.devices("auto")[1] == ""


def test_free_memory_of_the_machine_and_of_a_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       8000 kB\nMemFree:        100 kB\nMemAvailable:   4000 kB\n")
    group = tmp_path / "group"
    group.mkdir()
    assert devices.cpu_free(meminfo, group) == 4000 * 1024
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert devices.cpu_free(meminfo, group) == 4000 * 1024
    (group / "memory.max").write_text("3000000\n")
    (group / "memory.current").write_text("2000000\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 500000\n")
    assert devices.cpu_free(meminfo, group) == 1500000
    assert devices.cpu_free(tmp_path / "none", tmp_path / "none") is None
    here = devices.cpu_free()
    assert here is None or here > 0


def test_what_filled_the_gpu_is_let_go_before_it_is_tried_again() -> None:
    machine = Machine({"cuda:0": 1000 * MIB, "cpu": 9000 * MIB})
    models = shelf(machine, a=300 * MIB, b=300 * MIB)
    models.warm("b")
    models.warm("a")
    left: list[weakref.ref[Small]] = []

    def read(self: Small, selection: Selection, asked: Asked) -> Reading:
        if not left:
            activations = Small(machine, "activations", 0, 0, self.identity)
            left.append(weakref.ref(activations))
            raise FullError
        assert left[0]() is None
        return Reading(self.identity, (), (), (), (), ())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Small, "read", read)
        assert models["a"].read(NOTHING).device == "cuda:0"
    assert models.places() == {"a": "cuda:0", "b": "cpu"}


def test_no_memory_in_the_machine_may_pass() -> None:
    machine = Machine({"cpu": 1000 * MIB})
    models = shelf(machine, a=300 * MIB)

    def full(*_: object) -> Reading:
        raise MemoryError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Small, "read", full)
        with pytest.raises(BusyError, match="no memory left"):
            models["a"].read(NOTHING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "put", full)
        with pytest.raises(BusyError, match="cpu ran out of memory"):
            shelf(machine, a=300 * MIB).warm("a")
    assert models["a"].read(NOTHING).device == "cpu"
