"""Calls a service as fast as it answers, from several processes with several threads each."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle

import grpc

from milepost.v1.audience_service_pb2 import CheckMembershipRequest
from milepost.v1.audience_service_pb2_grpc import AudienceServiceStub
from tests.bench.figures import quantile

PROCESSES = 2
THREADS = 4
WARM_UP_CALLS = 100


@dataclass(frozen=True)
class Calls:
    """What the callers saw: calls a second, and how long each took, in order, in seconds."""

    per_second: float
    ordered_seconds: Sequence[float]

    def quantile_ms(self, share: float) -> float:
        """Milliseconds within which `share` of the calls were answered."""
        return quantile(self.ordered_seconds, share) * 1_000


def call_for(seconds: float, target: str, audience: str, users: Sequence[str]) -> Calls:
    """CheckMembership for `seconds`; each thread has a connection of its own."""
    # No process may be forked once gRPC has threads.
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        work = [(seconds, target, audience, users[number::PROCESSES]) for number in range(PROCESSES)]
        taken = [each for found in pool.starmap(_call_in_process, work) for each in found]
    return Calls(len(taken) / seconds, sorted(taken))


def _call_in_process(seconds: float, target: str, audience: str, users: Sequence[str]) -> list[float]:
    with ThreadPoolExecutor(THREADS) as pool:
        work = [
            pool.submit(_call_in_thread, seconds, target, audience, users[number::THREADS])
            for number in range(THREADS)
        ]
        return [each for future in work for each in future.result()]


def _call_in_thread(seconds: float, target: str, audience: str, users: Sequence[str]) -> list[float]:
    requests = cycle([CheckMembershipRequest(audience=audience, user_id=user) for user in users])
    # Channels with the same options would share one connection.
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(target, options=options) as channel:
        check = AudienceServiceStub(channel).CheckMembership
        for _ in range(WARM_UP_CALLS):
            check(next(requests))
        taken = []
        end = time.perf_counter() + seconds
        started = time.perf_counter()
        while started < end:
            check(next(requests))
            finished = time.perf_counter()
            taken.append(finished - started)
            started = finished
        return taken
