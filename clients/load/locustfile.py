"""Callers for locust: each has a client of its own and draws calls from the mix of a profile.

`python -m clients.load` runs it. By hand: set MILEPOST_LOAD_PROFILE to the file of a profile and run
`locust -f clients/load/locustfile.py --host localhost:7443`. Times are in microseconds, because locust rounds
them to whole numbers.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import grpc.experimental.gevent as grpc_gevent
from locust import User, constant, constant_throughput, events

# Before anything opens a channel: calls then wait in locust's green threads.
grpc_gevent.init_gevent()

from clients.load import profile  # noqa: E402
from clients.load.calls import ACCOUNT, CALLS, Call  # noqa: E402
from clients.load.locust_settings import (  # noqa: E402
    ACCOUNT_VARIABLE,
    CALLS_VARIABLE,
    PROFILE_VARIABLE,
)
from milepost import Client  # noqa: E402

MICROSECONDS_A_SECOND = 1_000_000
ONE_CONNECTION_EACH = (("grpc.use_local_subchannel_pool", 1),)

PROFILE = profile.read(Path(os.environ[PROFILE_VARIABLE]))
CALLS_MAX = float(os.environ.get(CALLS_VARIABLE, "inf"))


def end_after_calls(environment: Any, **_: object) -> None:
    """Ends the run after `CALLS_MAX` calls."""
    made = itertools.count(1)

    def count(**_: object) -> None:
        if next(made) == CALLS_MAX:
            # Not here: it ends the callers, and this runs in one of them.
            gevent.spawn(environment.runner.quit)

    environment.events.request.add_listener(count)


events.init.add_listener(end_after_calls)


def task_of(name: str, call: Call) -> Callable[[Caller], None]:
    """A task that makes the call and reports it."""

    def task(caller: Caller) -> None:
        begun = time.perf_counter()
        failure: Exception | None = None
        try:
            call(caller.client, caller.drawn, PROFILE.customers)
        except Exception as error:
            failure = error
        caller.environment.events.request.fire(
            request_type="grpc",
            name=name,
            response_time=(time.perf_counter() - begun) * MICROSECONDS_A_SECOND,
            response_length=0,
            exception=failure,
        )

    return task


class Caller(User):
    """One caller with a connection of its own."""

    tasks = {task_of(*CALLS[call]): share for call, share in PROFILE.mix.items() if share}  # noqa: RUF012
    wait_time = (
        constant_throughput(PROFILE.calls_per_second / PROFILE.users)
        if PROFILE.calls_per_second
        else constant(0)
    )

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.drawn = random.Random(id(self))
        self.client = Client(
            environment.host,
            account=os.environ.get(ACCOUNT_VARIABLE, ACCOUNT),
            options=ONE_CONNECTION_EACH,
        )

    def on_stop(self) -> None:
        """Closes the connection."""
        self.client.close()
