"""seccomp: the system calls that a process and its children may no longer make (seccomp(2)).

What reads images opens files, maps memory and starts threads. It needs no network, starts no program, and touches no
other process. A refused call fails with EPERM, so libraries that merely try it go on.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final, TypeAlias


def _calls(table: str) -> dict[str, tuple[int, int]]:
    rows = (row.split() for row in table.split(",") if row.strip())
    return {name: (int(first), int(second)) for name, first, second in rows}


# Of each call: its number on x86_64, and on aarch64 (-1: that one has none).
_REFUSED: Final = _calls("""
    execve 59 221, execveat 322 281, connect 42 203, ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311
    271, pidfd_getfd 438 438, kcmp 312 272, tkill 200 130, pidfd_send_signal 424 424, mount 165 40, umount2 166 39,
    pivot_root 155 41, chroot 161 51, fsopen 430 430, fsconfig 431 431, fsmount 432 432, move_mount 429 429, open_tree
    428 428, mount_setattr 442 442, setns 308 268, unshare 272 97, chmod 90 -1, fchmod 91 52, fchmodat 268 53,
    fchmodat2 452 452, chown 92 -1, lchown 94 -1, fchown 93 55, fchownat 260 54, setxattr 188 5, lsetxattr 189 6,
    fsetxattr 190 7, removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16, utime 132 -1, utimes 235 -1,
    futimesat 261 -1, utimensat 280 88, bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, io_uring_setup 425
    425, io_uring_enter 426 426, io_uring_register 427 427, add_key 248 217, request_key 249 218, keyctl 250 219,
    init_module 175 105, finit_module 313 273, delete_module 176 106, kexec_load 246 104, kexec_file_load 320 294,
    reboot 169 142, swapon 167 224, swapoff 168 225, acct 163 89, settimeofday 164 170, clock_settime 227 112,
    adjtimex 159 171, name_to_handle_at 303 264, open_by_handle_at 304 265, quotactl 179 60, msgget 68 186, msgsnd 69
    189, shmget 29 194, shmat 30 196, semget 64 190, mq_open 240 180, mq_unlink 241 181, process_madvise 440 440,
    process_mrelease 448 448, migrate_pages 256 238, move_pages 279 239, sched_setattr 314 274
""")
_SERVING: Final = _calls("bind 49 200, listen 50 201, accept 43 202, accept4 288 242")
_SIGNALS: Final = _calls("kill 62 129, tgkill 234 131, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240")
_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR = (56, 220), (435, 435), (41, 198), (53, 199)
_PRLIMIT, _SETPRIORITY, _IOPRIO_SET = (302, 261), (141, 140), (251, 30)
_NEW_NAMESPACES: Final = 0x7E020080  # CLONE_NEWTIME, NS, CGROUP, UTS, IPC, USER, PID, NET
_MACHINES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # its column above, its AUDIT_ARCH
_X32: Final = 0x40000000  # calls of x86's third interface have numbers of their own
_UNIX: Final = 1
_STREAM, _SEQPACKET, _KIND_OF_SOCKET = 1, 5, 0xF  # a datagram could be sent to any address

_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _AND, _JEQ, _JGE, _JSET, _RET = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_AT_NUMBER, _AT_ARCH, _AT_ARGUMENTS = 0, 4, 16  # in struct seccomp_data; of an argument its lower half is looked at
_Instruction: TypeAlias = tuple[int, int, int, int]  # code, steps to go on if true, if false, value
_REFUSE: Final[_Instruction] = (_RET, 0, 0, _ERRNO | errno.EPERM)
_PASS: Final[_Instruction] = (_RET, 0, 0, _ALLOW)
_SET_MODE_FILTER, _TSYNC = 1, 1
_SECCOMP_CALL: Final = {"x86_64": 317, "aarch64": 277}


def available() -> bool:
    """Whether this module knows the calls of this machine, and its kernel takes filters."""
    machine = platform.machine()
    if machine not in _MACHINES or not hasattr(os, "O_PATH"):
        return False
    # SECCOMP_GET_ACTION_AVAIL with the action that refuses.
    action = struct.pack("=I", _ERRNO)
    return _call(_SECCOMP_CALL[machine], 2, 0, action) == 0


def restrict(*, unix: bool, signals: bool = False) -> bool:
    """Refuse this process and all that it starts network, programs, other processes, and changes of the system.

    ``no_new_privs`` must be set.

    Args:
        unix: whether Unix sockets may be made and wait for others (a GPU's driver does so); they cannot be connected.
        signals: whether it may send signals to others than itself.

    Returns:
        whether it is in force.

    Raises:
        OSError: the kernel refused the filter.
    """
    if not available():
        return False
    machine = platform.machine()
    program = b"".join(struct.pack("=HBBI", *each) for each in _program(machine, unix=unix, signals=signals))
    code = ctypes.create_string_buffer(program, len(program))
    whole = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    if _call(_SECCOMP_CALL[machine], _SET_MODE_FILTER, _TSYNC, whole) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"seccomp: {os.strerror(error)}")
    return True


def _program(machine: str, *, unix: bool, signals: bool) -> list[_Instruction]:
    """The filter in the instructions of the kernel."""
    column, arch = _MACHINES[machine]
    program: list[_Instruction] = [(_LOAD, 0, 0, _AT_ARCH), (_JEQ, 1, 0, arch), (_RET, 0, 0, _KILL)]
    program.append((_LOAD, 0, 0, _AT_NUMBER))
    if machine == "x86_64":
        program += [(_JGE, 0, 1, _X32), _REFUSE]
    refused = _REFUSED if unix else _REFUSED | _SERVING
    for number in sorted({call[column] for call in refused.values()} - {-1}):
        program += [(_JEQ, 0, 1, number), _REFUSE]
    # Its flags are in memory, where a filter cannot look; the C library then takes clone.
    program += [(_JEQ, 0, 1, _CLONE3[column]), (_RET, 0, 0, _ERRNO | errno.ENOSYS)]
    namespaces = [(_LOAD, 0, 0, _AT_ARGUMENTS), (_JSET, 0, 1, _NEW_NAMESPACES), _REFUSE, _PASS]
    program += [(_JEQ, 0, len(namespaces), _CLONE[column]), *namespaces]
    if unix:
        kind = _only(_SOCKET[column], 1, (_STREAM, _SEQPACKET), mask=_KIND_OF_SOCKET)
        family = [(_LOAD, 0, 0, _AT_ARGUMENTS), (_JEQ, 1, 0, _UNIX), _REFUSE, (_LOAD, 0, 0, _AT_NUMBER)]
        program += [(_JEQ, 0, len(family), _SOCKET[column]), *family, *kind]
    else:
        program += [(_JEQ, 0, 1, _SOCKET[column]), _REFUSE]
    program += _only(_SOCKETPAIR[column], 1, (_STREAM, _SEQPACKET), mask=_KIND_OF_SOCKET)
    own = os.getpid()
    program += _only(_PRLIMIT[column], 0, (0, own))
    program += _only(_SETPRIORITY[column], 1, (0, own))
    program += _only(_IOPRIO_SET[column], 1, (0, own))
    if not signals:
        for call in _SIGNALS.values():  # abort and raise signal the process itself
            program += _only(call[column], 0, (own,))
    return [*program, _PASS]


def _only(call: int, argument: int, values: tuple[int, ...], mask: int = 0) -> list[_Instruction]:
    """Instructions that let a call through with some values of an argument (from 0) alone."""
    body: list[_Instruction] = [(_LOAD, 0, 0, _AT_ARGUMENTS + 8 * argument)]
    if mask:
        body.append((_AND, 0, 0, mask))
    body += [(_JEQ, len(values) - number, 0, value) for number, value in enumerate(values)]
    body += [_REFUSE, _PASS]
    return [(_JEQ, 0, len(body), call), *body]


def _call(*arguments: object) -> int:
    try:
        return int(ctypes.CDLL(None, use_errno=True).syscall(*arguments))
    except (AttributeError, OSError):  # no Linux
        return -1
