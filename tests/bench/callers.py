"""Calls a server as fast as it answers, from several processes with several threads each."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from multiprocessing.pool import Pool
from typing import Protocol

import grpc

from milepost.v1.audience_service_pb2 import BatchCheckMembershipRequest, CheckMembershipRequest
from milepost.v1.audience_service_pb2_grpc import AudienceServiceStub
from tests.bench.figures import quantile

PROCESSES = 2
THREADS = 4
WARM_UP_CALLS = 100


@dataclass(frozen=True)
class Calls:
    """Calls per second, and the sorted latencies in seconds."""

    per_second: float
    ordered_seconds: Sequence[float]

    def quantile_ms(self, share: float) -> float:
        """Milliseconds within which `share` of the calls were answered."""
        return quantile(self.ordered_seconds, share) * 1_000


class Asking(Protocol):
    """What each thread of a caller does: opens a connection and gives one call after the other. Sent to the
    processes of the callers.
    """

    def opened(self, share: int, shares: int) -> Iterator[Callable[[], object]]:
        """A context: the calls of the thread number `share` of `shares`."""
        ...


@dataclass(frozen=True)
class Checks:
    """CheckMembership of one user after the other."""

    target: str
    audience: str
    users: Sequence[str] = field(repr=False)

    def opened(self, share: int, shares: int) -> Iterator[Callable[[], object]]:
        users = self.users[share::shares]
        requests = cycle([CheckMembershipRequest(audience=self.audience, user_id=user) for user in users])
        with _connected(self.target) as stub:
            yield lambda: stub.CheckMembership(next(requests))


@dataclass(frozen=True)
class BatchChecks:
    """BatchCheckMembership of all users."""

    target: str
    parent: str
    audiences: Sequence[str]
    users: Sequence[str] = field(repr=False)

    def opened(self, share: int, shares: int) -> Iterator[Callable[[], object]]:
        request = BatchCheckMembershipRequest(
            parent=self.parent, user_ids=self.users, audiences=self.audiences
        )
        with _connected(self.target) as stub:
            yield lambda: stub.BatchCheckMembership(request)


@contextmanager
def _connected(target: str) -> Iterator[AudienceServiceStub]:
    # Channels with the same options would share one connection.
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
    with grpc.insecure_channel(target, options=options) as channel:
        yield AudienceServiceStub(channel)


class Callers:
    """Processes that call; each thread has its own connection. They stay for the length of the block."""

    def __init__(self, processes: int = PROCESSES) -> None:
        self.processes = processes
        # No process may be forked once gRPC has threads.
        self._pool: Pool = multiprocessing.get_context("spawn").Pool(processes)

    def __enter__(self) -> Callers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()
        self._pool.join()

    def call_for(
        self, seconds: float, asking: Asking, callers: int, warm_up_calls: int = WARM_UP_CALLS
    ) -> Calls:
        """Calls for `seconds`, from that many threads in all."""
        processes = min(callers, self.processes)
        work = [(seconds, asking, number, callers, processes, warm_up_calls) for number in range(processes)]
        taken = [each for found in self._pool.starmap(_call_in_process, work, chunksize=1) for each in found]
        return Calls(len(taken) / seconds, sorted(taken))


def _call_in_process(
    seconds: float, asking: Asking, number: int, callers: int, processes: int, warm_up_calls: int
) -> list[float]:
    shares = range(number, callers, processes)
    with ThreadPoolExecutor(len(shares)) as pool:
        work = [
            pool.submit(_call_in_thread, seconds, asking, share, callers, warm_up_calls) for share in shares
        ]
        return [each for future in work for each in future.result()]


def _call_in_thread(
    seconds: float, asking: Asking, share: int, callers: int, warm_up_calls: int
) -> list[float]:
    with contextmanager(asking.opened)(share, callers) as call:
        for _ in range(warm_up_calls):
            call()
        taken = []
        end = time.perf_counter() + seconds
        started = time.perf_counter()
        while started < end:
            call()
            finished = time.perf_counter()
            taken.append(finished - started)
            started = finished
        return taken
