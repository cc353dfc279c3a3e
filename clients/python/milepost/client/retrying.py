# Generated from milepost/aio/retrying.py: edit that file, then run `make client`.
"""Repeats calls that are safe to repeat."""

from __future__ import annotations

from typing import TypeVar

from milepost._concurrency import Call, sleep
from milepost._retrying import Backoff
from milepost.errors import MilepostError

Answer = TypeVar("Answer")


def with_retry(call: Call[Answer], *, timeouts: bool = False) -> Answer:
    """The answer of a call. Repeats it with growing pauses while the service is unavailable or over a limit
    that it says when to try again, and with `timeouts` after no answer in time. Only for reads, and for
    writes with a request id.
    """
    backoff = Backoff(timeouts=timeouts)
    while True:
        try:
            return call()
        except MilepostError as error:
            pause = backoff.failed(error)
        sleep(pause)
