"""Resolves names of hosts within a time: the resolver of the system may take minutes, and takes no limit.

Look-ups run in threads of their own, which nobody waits for after the time is over. Their number is bounded:
each that hangs takes one until the system gives up.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

Resolve: TypeAlias = Callable[[str, int], Iterable[tuple[Any, ...]]]
"""As `socket.getaddrinfo`."""
_Found: TypeAlias = list[tuple[Any, ...]] | Exception

RESOLVE_S_MAX = 10.0
"""How long the look-up of a name may take, waiting for one of the threads included."""
LOOKUPS_MAX = 32
"""Look-ups at a time."""


class Resolver:
    """Resolves names. Safe to call from several threads."""

    def __init__(
        self, resolve: Resolve, *, within_s: float = RESOLVE_S_MAX, lookups_max: int = LOOKUPS_MAX
    ) -> None:
        self._resolve = resolve
        self._within_s = within_s
        self._free = threading.BoundedSemaphore(lookups_max)

    def __call__(self, host: str, port: int) -> Iterable[tuple[Any, ...]]:
        """The addresses of a host, as `resolve` gives them. Raises OSError, also when the time is over."""
        if _is_address(host):
            return self._resolve(host, port)
        deadline = time.monotonic() + self._within_s
        if not self._free.acquire(timeout=self._within_s):
            raise TimeoutError(f"{host} was not resolved within {self._within_s:g} s: too many others wait")
        found: queue.SimpleQueue[_Found] = queue.SimpleQueue()
        threading.Thread(target=self._look_up, args=(host, port, found), name="resolver", daemon=True).start()
        try:
            answer = found.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError(f"{host} was not resolved within {self._within_s:g} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _look_up(self, host: str, port: int, found: queue.SimpleQueue[_Found]) -> None:
        try:
            found.put(list(self._resolve(host, port)))
        except Exception as error:
            found.put(error)
        finally:
            self._free.release()


def system_resolver() -> Resolver:
    """Asks the resolver of the system."""
    return Resolver(_ask_system)


def _ask_system(host: str, port: int) -> Iterable[tuple[Any, ...]]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        # A label that is too long, or empty.
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is no host") from error


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
