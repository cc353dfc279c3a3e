"""A service in this process, in memory and without a network, for tests of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from milepost.client import Client

TIME_MICROS = 253_370_764_800_000_000
"""What its clock shows: 9999-01-01. It takes data of any earlier time; each question says its own instant."""


@contextmanager
def in_process() -> Iterator[Callable[[str], Client]]:
    """Makes clients of a new service, each for the account with an id. Its data are gone at the end."""
    from service.in_process import InProcess

    with InProcess(lambda: TIME_MICROS) as service:
        yield lambda account: Client(account=account, channel=service)
