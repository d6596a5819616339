"""The devices that a model can run on, and how much memory each has free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

CPU = "cpu"
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Device:
    """A device of torch by its name; ``free`` returns how many bytes it has free now, None if that is unknown."""

    name: str
    free: Callable[[], int | None]


def devices(wanted: str) -> tuple[tuple[Device, ...], str]:
    """The devices to use, best first, and a complaint about ``wanted`` (empty if there is none).

    ``wanted`` is "cpu", "cuda" (every GPU), "cuda:N" (one GPU) or "auto" (every GPU, if there is one). The CPU is
    always the last, so a model always has a device: a missing GPU leads to a complaint, and the CPU is used.
    """
    cpu = Device(CPU, cpu_free)
    if wanted == CPU:
        return (cpu,), ""
    import torch  # noqa: PLC0415  (the receiver's process does without)

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [f"cuda:{number}" for number in range(count)]
    chosen = [name for name in names if wanted in ("auto", "cuda", name)]
    complaint = ""
    if not chosen and wanted != "auto":
        there = ", ".join(names) or "no GPU"
        complaint = f"device {wanted} was asked for, but torch sees {there}; the models run on the CPU"
    return (*(Device(name, partial(_cuda_free, name)) for name in chosen), cpu), complaint


def reads_on_cpu(wanted: str) -> bool:
    """Whether models will run on the CPU: no GPU is wanted, or the machine has none. It does not import torch."""
    return wanted == CPU or (wanted == "auto" and not any(Path("/dev").glob("nvidia[0-9]*")))


def use_threads(count: int) -> None:
    """Let torch use ``count`` processors in this process from now on."""
    import torch  # noqa: PLC0415  (see devices)

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _cuda_free(name: str) -> int:
    """The bytes that the driver has free, and those that torch holds without use."""
    import torch  # noqa: PLC0415  (see devices)

    free, _ = torch.cuda.mem_get_info(name)
    return int(free + torch.cuda.memory_reserved(name) - torch.cuda.memory_allocated(name))


def cpu_free(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """The bytes of memory that this machine, or the container of the node, has left; None if neither tells.

    The limit of a container is that of cgroup v2. Its file cache counts as free, because the kernel releases it.
    """
    known = [value for value in (_available(meminfo), _left_in_group(cgroup)) if value is not None]
    return min(known) if known else None


def _available(meminfo: Path) -> int | None:
    for line in _lines(meminfo):
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def _left_in_group(cgroup: Path) -> int | None:
    limit, used = (_lines(cgroup / name) for name in ("memory.max", "memory.current"))
    if not limit or not used or not limit[0].isdigit():  # "max" is no limit
        return None
    fields = dict(line.split() for line in _lines(cgroup / "memory.stat") if len(line.split()) == 2)
    return max(0, int(limit[0]) - int(used[0]) + int(fields.get("inactive_file", "0")))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
