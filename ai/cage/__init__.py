"""A cage that a process puts itself into before it runs what it was given: decoders, models, programs inside bundles.

Four walls, each where the system has it (`ai.cage.walls` says so in words):

* **Files** (`ai.cage.landlock`): Python and its packages and the folders that are named can be read. One private folder
  can be written, and files can be put into the folders that are named. Nothing else can be opened.
* **Calls** (`ai.cage.seccomp`): no socket, no program, no other process, no change of modes, owners or mounts.
* **Memory**: the limit of its control group, else a limit on its data.
* **Core dumps** hold none of its memory, and no file or program gives it new privileges.

A process in the cage keeps what it had open. Its children are in the same cage. It cannot leave, so whoever needs a
program or a socket starts or opens it before.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ai.cage import landlock, seccomp

_NO_NEW_PRIVS, _DUMPABLE = 38, 4  # of prctl(2)
_CAPABILITY_VERSION, _OPEN_ANY_FILE = 0x20080522, 0b110  # of capset(2); CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
# What Python and its packages read beside their own folders.
_SYSTEM: Final = (
    *("/usr", "/lib", "/lib64", "/bin", "/nix", "/opt/cuda", "/opt/nvidia", "/opt/rocm", "/proc", "/sys"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/timezone", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf"),
    *("/etc/fonts", "/etc/ssl/openssl.cnf", "/etc/mime.types", "/etc/OpenCL", "/etc/vulkan", "/etc/alternatives"),
)
_CACHES: Final = (
    "HOME",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "MPLCONFIGDIR",
    "CUDA_CACHE_PATH",
    "TORCH_HOME",
)
_DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_GPUS: Final = ("nvidia*", "kfd", "dri")
_MODULES: Final = (".py", ".so", ".dist-info", ".egg-info", ".pth")
_EXPENDABLE: Final = "800"  # of 1000
_SHARE: Final = 0.9  # of the machine's memory, for the data of one process


@dataclass(frozen=True, slots=True)
class Cage:
    """What a process may still do in it; every path is absolute.

    ``private`` is a folder of its own, which it may write; None for none. ``reads`` are files and folders that it may
    read, ``drops`` folders that it may put files into. ``hides`` are folders that must stay closed, also where Python
    itself was started in a folder above them. ``gpu``: whether it may use the machine's GPUs. ``memory``: whether its
    data are limited where no control group does it. ``signals``: whether it may end processes of its own.
    ``expendable``: whether the system ends it first where memory runs out.
    """

    private: str | None
    reads: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    gpu: bool = False
    memory: bool = True
    signals: bool = False
    expendable: bool = False


def enter(cage: Cage) -> None:
    """Put this process into a cage, for good.

    Raises:
        RuntimeError: it has more than one thread: the others would stay outside.
        OSError: the system has a wall and refuses to build it.
    """
    if (count := threads()) > 1:
        raise RuntimeError(f"the cage must be entered with one thread, and this process has {count}")
    if cage.expendable:
        with suppress(OSError):  # not every system has it
            Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE, encoding="ascii")
    if cage.gpu:
        _make_gpu_devices()
    if cage.private is not None:
        _live_in(cage.private)
    no_core_dumps()
    if cage.memory and group_limit() is None and (limit := data_limit()):
        lower(resource.RLIMIT_DATA, limit)
    _drop_capabilities()
    ctypes.CDLL(None).prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    landlock.restrict(_rules(cage))
    seccomp.restrict(unix=cage.gpu, signals=cage.signals)


def _drop_capabilities() -> None:
    """Give up what the superuser may do, but for opening files of other users: it could look into other processes."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    kept = (_OPEN_ANY_FILE, _OPEN_ANY_FILE, 0, 0, 0, 0) if os.geteuid() == 0 else (0,) * 6
    libc = ctypes.CDLL(None)
    if hasattr(libc, "capset"):  # it can be refused only to who has none of them
        libc.capset(header, struct.pack("=6I", *kept))


def no_core_dumps(*, hidden: bool = False) -> None:
    """Keep the memory of this process out of core dumps; with ``hidden`` others of this user cannot look at it."""
    lower(resource.RLIMIT_CORE, 0)
    with suppress(OSError):  # a program that takes dumps by a pipe is not bound by the limit
        Path("/proc/self/coredump_filter").write_text("0", encoding="ascii")
    if hidden:
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(_DUMPABLE, 0, 0, 0, 0)


def lower(which: int, value: int) -> None:
    """Lower a limit of this process for good; one that is lower already stays."""
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def group_limit() -> int | None:
    """The bytes that the control group of this process may have (cgroup v2); None if there is no limit."""
    limits = []
    root = Path("/sys/fs/cgroup")
    with suppress(OSError, IndexError):
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()[0].split(":", 2)[2]
        folder = root / own.lstrip("/")
        for each in (folder, *folder.parents):
            if not each.is_relative_to(root):
                break
            with suppress(OSError, ValueError):  # "max" is no limit
                limits.append(int((each / "memory.max").read_text(encoding="ascii")))
    return min(limits, default=None)


def data_limit() -> int | None:
    """The bytes of data that a process may have where no control group limits it; None if memory is not known."""
    with suppress(OSError, ValueError):
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _SHARE)
    return None


def threads() -> int:
    """The threads of this process."""
    try:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - os alone is needed here
    except OSError:
        return 1  # no Linux, and no walls


def _make_gpu_devices() -> None:
    """Have the driver of NVIDIA make its device files: its libraries start this program for it, and cannot later."""
    program = shutil.which("nvidia-modprobe")
    if program is not None and not Path("/dev/nvidia-uvm").exists():
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run([program, "-c0", "-u"], timeout=10, check=False, capture_output=True)  # noqa: S603


def _live_in(folder: str) -> None:
    """Let every library write its caches and temporary files into one folder."""
    for name in _CACHES:
        os.environ[name] = folder
    tempfile.tempdir = None


def _rules(cage: Cage) -> Iterator[tuple[Path, int]]:
    hidden = [Path(each).resolve() for each in cage.hides]
    paths = sysconfig.get_paths()
    own = {sys.prefix, sys.base_prefix, sys.exec_prefix, *(paths[name] for name in ("stdlib", "platstdlib", "purelib"))}
    for each in (*_SYSTEM, *own, *cage.reads):
        folder = Path(each).resolve()
        # Of what is hidden below, names can be listed and nothing can be read.
        above = any(inside.is_relative_to(folder) for inside in hidden)
        yield folder, landlock.READ_DIR if above else landlock.READ
    for each in {str(Path(__file__).parent.parent.parent), *sys.path}:
        yield from _importable(Path(each).resolve())
    for name in _DEVICES:
        yield Path("/dev") / name, landlock.DEVICE
    if cage.gpu:
        for pattern in _GPUS:
            for device in Path("/dev").glob(pattern):
                yield device, landlock.DEVICE | landlock.READ_DIR
    if cage.private is not None:
        yield Path(cage.private), landlock.KEEP
    for each in cage.drops:
        yield Path(each), landlock.DROP


def _importable(folder: Path) -> Iterator[tuple[Path, int]]:
    """What Python may import from a folder: it may be a home, or the folder of everything."""
    if not folder.is_dir():
        yield folder, landlock.READ_FILE
        return
    yield folder, landlock.READ_DIR
    with suppress(OSError):
        for each in folder.iterdir():
            if each.suffix in _MODULES or (each / "__init__.py").is_file():
                yield each, landlock.READ
