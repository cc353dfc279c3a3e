"""Requests to Callgrind from the program that it runs: when to count, and where to write what it counted.

A request is a sequence of instructions that does nothing on a processor and that Valgrind recognises
(valgrind.h, for x86-64). Python has no way to write one, so it lies in memory of its own here.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Iterator
from contextlib import contextmanager

MACHINE = "x86_64"
"""The processors whose request is written down here."""

_REQUEST = bytes.fromhex(
    "4889f8"  # mov rax, rdi: the arguments
    "4889f2"  # mov rdx, rsi: the answer without Valgrind
    "48c1c703 48c1c70d 48c1c73d 48c1c733"  # rol rdi by 3, 13, 61, 51: by 128 in all
    "4887db"  # xchg rbx, rbx
    "4889d0"  # mov rax, rdx
    "c3"  # ret
)
_ARGUMENTS = 6
_RUNNING_ON_VALGRIND = 0x1001
_CALLGRIND = ord("C") << 24 | ord("T") << 16
_ZERO, _DUMP, _START, _STOP = (_CALLGRIND + number for number in (1, 3, 4, 5))


class Callgrind:
    """Callgrind around this process, started with `--instr-atstart=no`."""

    def __init__(self) -> None:
        """Raises RuntimeError outside Valgrind, or on another kind of processor."""
        if platform.machine() != MACHINE:
            raise RuntimeError(f"requests to Valgrind are known for {MACHINE} alone")
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._page.write(_REQUEST)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._call = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64)(address)
        if not self._request(_RUNNING_ON_VALGRIND):
            raise RuntimeError("this process does not run in Valgrind")

    @contextmanager
    def counting(self, name: str) -> Iterator[None]:
        """Writes a file with the instructions of the block, named in its line `desc: Trigger`."""
        label = ctypes.create_string_buffer(name.encode())
        self._request(_ZERO)
        self._request(_START)
        try:
            yield
        finally:
            self._request(_STOP)
            self._request(_DUMP, ctypes.addressof(label))

    def _request(self, number: int, argument: int = 0) -> int:
        arguments = (ctypes.c_uint64 * _ARGUMENTS)(number, argument)
        answer: int = self._call(ctypes.addressof(arguments), 0)
        return answer
