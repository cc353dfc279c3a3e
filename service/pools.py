"""Threads by kind of call, so that no kind takes the threads of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from engine.measures import Measure, counted, gauge, timed
from service.config import Config
from service.first_message import FirstMessages, NoMessages
from service.limits import MESSAGE_S_MAX, PROBES_MAX
from service.methods import Kind
from service.silent_streams import SilentStreams
from service.waiting_streams import StreamWorkers
from service.workers import Workers

PROBE_THREADS = 8
REFUSAL_THREADS = 2


class Pools:
    """The threads of every kind of call. `refusals` answers calls that are not admitted: they need no other
    thread.
    """

    def __init__(
        self,
        by_kind: Mapping[Kind, Workers],
        refusals: Workers,
        first_messages: FirstMessages,
        silent_streams: SilentStreams,
    ) -> None:
        self._by_kind = dict(by_kind)
        self.silent_streams = silent_streams
        self.refusals = refusals
        self.first_messages = first_messages

    @classmethod
    def of(cls, config: Config) -> Pools:
        """The pools that the settings describe."""
        first, silent = FirstMessages(min(config.stream_idle_s, MESSAGE_S_MAX)), SilentStreams()
        return cls(
            {
                Kind.UNARY: Workers("unary", config.worker_threads, config.in_flight_max, first),
                Kind.PROBE: Workers("probe", PROBE_THREADS, PROBES_MAX, first, silent),
                Kind.WATCHER: StreamWorkers(Kind.WATCHER.value, config.watchers_max, first),
                **{
                    kind: Workers(kind.value, most, most, first, silent)
                    for kind, most in (
                        (Kind.STREAM, config.streams_max),
                        (Kind.IMPORT, config.imports_max),
                        (Kind.EXPORT, config.exports_max),
                        (Kind.JOB, config.jobs_max),
                    )
                },
            },
            Workers("refusal", REFUSAL_THREADS, config.in_flight_max, NoMessages()),
            first,
            silent,
        )

    def __getitem__(self, kind: Kind) -> Workers:
        return self._by_kind[kind]

    @property
    def in_flight(self) -> int:
        """Number of admitted calls running or queued, without health checks and reflection."""
        return sum(pool.in_flight for kind, pool in self._by_kind.items() if kind is not Kind.PROBE)

    def measures(self) -> Iterator[Measure]:
        """Calls of each kind, their limits, and refusals."""
        for pool in self._all:
            yield gauge("calls_in_flight", "Calls running or queued.", pool.in_flight, pool=pool.name)
            yield gauge("calls_in_flight_max", "Limit of a pool.", pool.in_flight_max, pool=pool.name)
            yield counted(
                "calls_refused_total", "Calls refused by a full pool.", pool.refused, pool=pool.name
            )
            yield timed("call_wait_seconds", "Waits of calls for a thread.", pool.waits, pool=pool.name)

    def wake_streams(self) -> None:
        """Has streams that wait look again whether they may go on."""
        for pool in self._all:
            if isinstance(pool, StreamWorkers):
                pool.wake_all()

    def shutdown(self) -> None:
        """Stops the threads after their current calls."""
        self.first_messages.stop()
        for pool in self._all:
            pool.shutdown()

    @property
    def _all(self) -> tuple[Workers, ...]:
        return (*self._by_kind.values(), self.refusals)
