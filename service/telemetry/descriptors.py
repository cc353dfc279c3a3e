"""File descriptors: as many as the system allows, and a line in the log when none is free.

A server without a free descriptor accepts no connection. Callers wait, and gRPC logs nothing.
"""

from __future__ import annotations

import errno
import os
import resource
import time

import structlog

from service.repeating import Repeating

LOOK_INTERVAL_S = 1.0
REPEAT_S = 60.0
"""Time between two lines while no descriptor is free."""
ENOUGH = 1 << 20
"""Not more, whatever the system allows: some code does something for each possible descriptor."""
FEW = 1_024
"""A limit below this is reported at the start."""

_logger = structlog.get_logger("milepost.service")


def raise_limit() -> None:
    """Raises the process's limit to the highest that it may have, at most to `ENOUGH`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < FEW:
        _logger.warning("few file descriptors: connections beyond them are not accepted", limit=limit)


class DescriptorWatch(Repeating):
    """Looks whether a descriptor is free, until stopped."""

    def __init__(self) -> None:
        super().__init__("descriptors")
        # Duplicating it takes the next free number, and costs the same however many are open.
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._exhausted = False
        self._report_at = 0.0

    def stop(self) -> None:
        """Stops the thread."""
        super().stop()
        os.close(self._spare)

    def _turn(self) -> float:
        is_exhausted = self._is_exhausted()
        now = time.monotonic()
        if is_exhausted and now >= self._report_at:
            self._report_at = now + REPEAT_S
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            _logger.error(
                "no file descriptor is free: new connections are not accepted, and their callers wait",
                limit=limit,
            )
        elif self._exhausted and not is_exhausted:
            self._report_at = 0.0
            _logger.warning("file descriptors are free again")
        self._exhausted = is_exhausted
        return LOOK_INTERVAL_S

    def _is_exhausted(self) -> bool:
        try:
            os.close(os.dup(self._spare))
        except OSError as error:
            return error.errno in (errno.EMFILE, errno.ENFILE)
        return False
