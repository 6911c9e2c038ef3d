"""A filter of system calls: what a worker process may ask of the kernel, and nothing else.

See seccomp(2). The list holds what Python, numpy and PyTorch need in order to compute. Left out
are, among others: sockets of every kind, new processes and programs, shared memory and message
queues, other processes' memory, keys of the kernel, permissions and owners of files, namespaces,
mounts, and the interfaces through which kernels are attacked (bpf, io_uring, perf, userfaultfd).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterator

Instruction = tuple[int, int, int, int]
"""Operation, instructions to skip if true and if false, operand (`struct sock_filter`)."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16  # offsets in `struct seccomp_data`; little-endian
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000

_SET_FILTER = (22, 2)  # prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, …)
_NEWER = 463
"""Calls from this number on are not known here: to the program they do not exist."""
_CLONE3 = 435
"""Its flags lie in memory, where a filter cannot see them; without it, C libraries use `clone`."""

# What some calls may be given. The names are those of the kernel's headers.
_CLONE_THREAD = 0x10000
_SHARED_NOWHERE = 0x01 | 0x20  # MAP_SHARED | MAP_ANONYMOUS: memory that no limit counts
_MAP_GROWSDOWN = 0x100  # likewise
_SIGNALS_TO_OTHERS = (8, 10, 15, 1026)  # fcntl F_SETOWN, F_SETSIG, F_SETOWN_EX, F_NOTIFY
_PRCTL = (3, 15, 16, 0x53564D41)  # PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_SET_VMA

_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# fmt: off
_CALLS: dict[str, dict[str, int]] = {
    "x86_64": {
        "read": 0, "write": 1, "readv": 19, "writev": 20, "pread64": 17, "pwrite64": 18,
        "preadv": 295, "pwritev": 296, "lseek": 8, "close": 3, "close_range": 436, "dup": 32,
        "dup2": 33, "dup3": 292, "fcntl": 72, "ioctl": 16, "flock": 73, "pipe": 22, "pipe2": 293,
        "eventfd2": 290, "epoll_create1": 291, "epoll_ctl": 233, "epoll_wait": 232,
        "epoll_pwait": 281, "poll": 7, "ppoll": 271, "select": 23, "pselect6": 270, "open": 2,
        "openat": 257, "creat": 85, "stat": 4, "lstat": 6, "fstat": 5, "newfstatat": 262,
        "statx": 332, "statfs": 137, "fstatfs": 138, "access": 21, "faccessat": 269,
        "faccessat2": 439, "readlink": 89, "readlinkat": 267, "getdents64": 217, "getcwd": 79,
        "chdir": 80, "umask": 95, "mkdir": 83, "mkdirat": 258, "rmdir": 84, "unlink": 87,
        "unlinkat": 263, "rename": 82, "renameat": 264, "renameat2": 316, "ftruncate": 77,
        "fallocate": 285, "fsync": 74, "fdatasync": 75, "fadvise64": 221, "copy_file_range": 326,
        "sendfile": 40, "mmap": 9, "munmap": 11, "mprotect": 10, "mremap": 25, "msync": 26,
        "mincore": 27, "madvise": 28, "brk": 12, "mlock": 149, "munlock": 150, "mbind": 237,
        "get_mempolicy": 239, "set_mempolicy": 238, "membarrier": 324, "futex": 202,
        "set_robust_list": 273, "rseq": 334, "set_tid_address": 218, "clone": 56, "arch_prctl": 158,
        "exit": 60, "exit_group": 231, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
        "sigaltstack": 131, "kill": 62, "tgkill": 234, "pause": 34, "restart_syscall": 219,
        "getpid": 39, "gettid": 186, "getppid": 110, "getuid": 102, "geteuid": 107, "getgid": 104,
        "getegid": 108, "getresuid": 118, "getresgid": 120, "getgroups": 115, "getpgrp": 111,
        "getpgid": 121, "getsid": 124, "getcpu": 309, "prctl": 157, "prlimit64": 302,
        "getrlimit": 97, "setrlimit": 160, "getrusage": 98, "sysinfo": 99, "uname": 63,
        "times": 100, "getpriority": 140, "capget": 125, "sched_yield": 24,
        "sched_getaffinity": 204, "sched_getparam": 143, "sched_getscheduler": 145,
        "sched_get_priority_max": 146, "sched_get_priority_min": 147, "nanosleep": 35,
        "clock_nanosleep": 230, "clock_gettime": 228, "clock_getres": 229, "gettimeofday": 96,
        "time": 201, "getrandom": 318,
    },
    "aarch64": {
        "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68,
        "preadv": 69, "pwritev": 70, "lseek": 62, "close": 57, "close_range": 436, "dup": 23,
        "dup3": 24, "fcntl": 25, "ioctl": 29, "flock": 32, "pipe2": 59, "eventfd2": 19,
        "epoll_create1": 20, "epoll_ctl": 21, "epoll_pwait": 22, "ppoll": 73, "pselect6": 72,
        "openat": 56, "fstat": 80, "newfstatat": 79, "statx": 291, "statfs": 43, "fstatfs": 44,
        "faccessat": 48, "faccessat2": 439, "readlinkat": 78, "getdents64": 61, "getcwd": 17,
        "chdir": 49, "umask": 166, "mkdirat": 34, "unlinkat": 35, "renameat": 38, "renameat2": 276,
        "ftruncate": 46, "fallocate": 47, "fsync": 82, "fdatasync": 83, "fadvise64": 223,
        "copy_file_range": 285, "sendfile": 71, "mmap": 222, "munmap": 215, "mprotect": 226,
        "mremap": 216, "msync": 227, "mincore": 232, "madvise": 233, "brk": 214, "mlock": 228,
        "munlock": 229, "mbind": 235, "get_mempolicy": 236, "set_mempolicy": 237, "membarrier": 283,
        "futex": 98, "set_robust_list": 99, "rseq": 293, "set_tid_address": 96, "clone": 220,
        "exit": 93, "exit_group": 94, "rt_sigaction": 134, "rt_sigprocmask": 135,
        "rt_sigreturn": 139, "sigaltstack": 132, "kill": 129, "tgkill": 131, "restart_syscall": 128,
        "getpid": 172, "gettid": 178, "getppid": 173, "getuid": 174, "geteuid": 175, "getgid": 176,
        "getegid": 177, "getresuid": 148, "getresgid": 150, "getgroups": 158, "getpgid": 155,
        "getsid": 156, "getcpu": 168, "prctl": 167, "prlimit64": 261, "getrlimit": 163,
        "setrlimit": 164, "getrusage": 165, "sysinfo": 179, "uname": 160, "times": 153,
        "getpriority": 141, "capget": 90, "sched_yield": 124, "sched_getaffinity": 123,
        "sched_getparam": 121, "sched_getscheduler": 120, "sched_get_priority_max": 125,
        "sched_get_priority_min": 126, "nanosleep": 101, "clock_nanosleep": 115,
        "clock_gettime": 113, "clock_getres": 114, "gettimeofday": 169, "getrandom": 278,
    },
}
# fmt: on
"""Numbers of the calls that are allowed, from Linux's `unistd_64.h` and generic `unistd.h`."""


class _Filter(ctypes.Structure):
    _fields_ = (
        ("operation", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filters", ctypes.POINTER(_Filter)))


def restrict() -> None:
    """Give up every call that is not on the list, for this process and for ever.

    Only for a process of one thread that can gain no privileges (`no_new_privs`).

    Raises:
        OSError: no list for this processor, or a kernel without such filters.
    """
    machine = platform.machine()
    if machine not in _CALLS:
        raise OSError(None, f"no list of system calls for the processor {machine}")
    instructions = list(_program(machine, own=os.getpid()))
    filters = (_Filter * len(instructions))(*(_Filter(*one) for one in instructions))
    program = _Program(len(instructions), filters)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(*_SET_FILTER, ctypes.byref(program), 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"no filter of system calls: {os.strerror(code)}")


def _program(machine: str, *, own: int) -> Iterator[Instruction]:
    """Yield the filter. `own`: the process's id, the only one that it may signal."""
    calls = _CALLS[machine]
    yield _LOAD, 0, 0, _MACHINE
    yield from _unless(_EQUAL, _MACHINES[machine], _KILL)
    yield _LOAD, 0, 0, _NUMBER
    yield from _if(_AT_LEAST, _NEWER, _ERROR | errno.ENOSYS)
    yield from _if(_EQUAL, _CLONE3, _ERROR | errno.ENOSYS)
    with_rules = {calls[name]: rule for name, rule in _rules(own).items()}
    for number in calls.values():
        if number not in with_rules:
            yield from _if(_EQUAL, number, _ALLOW)
    for number, rule in with_rules.items():
        yield _EQUAL, 0, len(rule), number
        yield from rule
    yield _RETURN, 0, 0, _ERROR | errno.EPERM


def _rules(own: int) -> dict[str, list[Instruction]]:
    """Return the calls whose arguments are looked at; each rule ends in an answer."""
    return {
        "clone": [_argument(0), *_if(_ANY_BIT, _CLONE_THREAD, _ALLOW), _REFUSED],
        "mmap": [
            _argument(3),
            *_if(_ANY_BIT, _MAP_GROWSDOWN, _ERROR | errno.EPERM),
            (_AND, 0, 0, _SHARED_NOWHERE),
            *_if(_EQUAL, _SHARED_NOWHERE, _ERROR | errno.EPERM),
            _ALLOWED,
        ],
        "kill": _only(0, own),
        "tgkill": _only(0, own),
        "prlimit64": _only(0, 0, own),
        "prctl": _only(0, *_PRCTL),
        "fcntl": [
            _argument(1),
            *(step for n in _SIGNALS_TO_OTHERS for step in _if(_EQUAL, n, _ERROR | errno.EPERM)),
            _ALLOWED,
        ],
    }


_ALLOWED: Instruction = (_RETURN, 0, 0, _ALLOW)
_REFUSED: Instruction = (_RETURN, 0, 0, _ERROR | errno.EPERM)


def _argument(index: int) -> Instruction:
    return _LOAD, 0, 0, _ARGUMENTS + 8 * index


def _only(index: int, *values: int) -> list[Instruction]:
    allowed = [step for value in values for step in _if(_EQUAL, value, _ALLOW)]
    return [_argument(index), *allowed, _REFUSED]


def _if(test: int, operand: int, answer: int) -> list[Instruction]:
    return [(test, 0, 1, operand), (_RETURN, 0, 0, answer)]


def _unless(test: int, operand: int, answer: int) -> list[Instruction]:
    return [(test, 1, 0, operand), (_RETURN, 0, 0, answer)]
