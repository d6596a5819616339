"""Landlock: which paths, ports and processes a process and its children may reach (landlock(7)).

The kernel tells which version it has (its ABI); what an older one lacks is left out, and `abi` says so. A ruleset binds
the thread that enters it and what that thread starts, so enter it while the process has one thread.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on every architecture
_PATH_BENEATH: Final = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REG = 1 << 7, 1 << 8
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
_OF_A_FILE: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
# How many of the bits above an ABI knows (landlock(7)); from the fourth on TCP ports, from the sixth on scopes.
_PATH_BITS: Final = {1: 13, 2: 14, 3: 15, 4: 15}
_ALL_PATH_BITS: Final = 16
_PORTS, _SCOPES = 0b11, 0b11  # bind and connect; abstract Unix sockets and signals
_ABI_PORTS, _ABI_SCOPES = 4, 6

READ: Final = READ_FILE | READ_DIR
KEEP: Final = READ | WRITE_FILE | TRUNCATE | MAKE_REG | MAKE_DIR | REMOVE_FILE | REMOVE_DIR
"""For a private folder: read, write, make and delete files and folders."""
DROP: Final = WRITE_FILE | TRUNCATE | MAKE_REG | REMOVE_FILE
"""For a folder that files are only put into: none of the others can be listed or read."""
DEVICE: Final = READ_FILE | WRITE_FILE | IOCTL_DEV


def abi() -> int:
    """The version of Landlock that this kernel has; 0 if it has none, or if it is switched off."""
    found = _call(_CREATE, None, ctypes.c_size_t(0), 1)
    return max(found, 0)


def restrict(rules: Iterable[tuple[Path, int]]) -> int:
    """Refuse this thread, and all that it starts, every path but those of the rules, TCP, and signals to others.

    ``no_new_privs`` must be set. A path that is not there is left out.

    Args:
        rules: a file or folder, and what may be done there or below it; rights to one path add up.

    Returns:
        the version of Landlock in force; 0 if there is none, and nothing is refused.

    Raises:
        OSError: the kernel refused the rules.
    """
    version = abi()
    if not version:
        return 0
    handled = (1 << _PATH_BITS.get(version, _ALL_PATH_BITS)) - 1
    ports = _PORTS if version >= _ABI_PORTS else 0
    scopes = _SCOPES if version >= _ABI_SCOPES else 0
    attributes = struct.pack("=QQQ", handled, ports, scopes)
    size = 24 if version >= _ABI_SCOPES else 16 if version >= _ABI_PORTS else 8
    ruleset = _checked(_call(_CREATE, attributes, ctypes.c_size_t(size), 0))
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights & handled)
        _checked(_call(_RESTRICT, ruleset, 0))
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there, or not to be reached: nothing can be done with it in any case
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_A_FILE
        if rights:
            _checked(_call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0))
    finally:
        os.close(place)


def _call(*arguments: object) -> int:
    try:
        return int(ctypes.CDLL(None, use_errno=True).syscall(*arguments))
    except (AttributeError, OSError):  # no Linux
        return -1


def _checked(answer: int) -> int:
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return answer
