"""Waits for the message of a call without a thread.

gRPC gives a call a thread as soon as its headers have come, and lets the thread wait for the message. Callers
that send no message could hold all threads that way, and every call costs one more change of threads. Here a
call gets a thread once its message is there, and is refused when the message does not come in time. A call
that needs no API key is refused before, when its pool is full of calls and another one comes after it has
been silent for a while: nobody's share limits how many calls without a message there are (see also
`service.silent_streams`).

gRPC also parses a message in the one thread that receives for all calls. Here it is parsed in the call's own.

This uses internal parts of grpcio. A release that calls them otherwise waits in the threads as before:
`tests/service/test_first_message.py` fails then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import structlog
from grpc import _server as internals
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from engine.errors import Aborted, InvalidInput, MilepostError, StoreUnavailable
from service.errors import answer_of
from service.repeating import Repeating
from service.silent_streams import SILENT_S_MIN

SWEEP_INTERVAL_S = 0.5
"""Interval between checks for messages that are late."""

_logger = structlog.get_logger("milepost.service")

_ARGUMENTS = ("function", "rpc_event", "state", "behaviour", "thunk", "parse", "serialise")
_THUNK = _ARGUMENTS.index("thunk")
_ONE_REQUEST = "_unary_request.<locals>.unary_request"
"""The function of gRPC that waits for the message of a call with one request."""


class Call(NamedTuple):
    """A call with one request, whose message has yet to come, and the task that gRPC would run for it."""

    rpc_event: Any
    state: Any
    parse: Any
    task: tuple[Any, ...]

    @classmethod
    def of(cls, task: tuple[Any, ...]) -> Call | None:
        """The call of a task that gRPC submits; None for one that needs no message to begin."""
        if len(task) != len(_ARGUMENTS) or getattr(task[_THUNK], "__qualname__", "") != _ONE_REQUEST:
            return None
        _, rpc_event, state, _, _, parse, _ = task
        return cls(rpc_event, state, parse, task)

    def with_message(self) -> tuple[Any, ...]:
        """The task, with the message received."""
        return (*self.task[:_THUNK], self._message, *self.task[_THUNK + 1 :])

    def without_message(self) -> tuple[Any, ...]:
        """The task for a behaviour that does not look at the message."""
        return (*self.task[:_THUNK], tuple, *self.task[_THUNK + 1 :])

    def _message(self) -> Any:
        """The message; None: the call is over."""
        with self.state.condition:
            data, self.state.request = self.state.request, None
        if data is None:
            self.refuse(InvalidInput.one("request", "is missing: the caller sent no message"))
            return None
        try:
            return data if self.parse is None else self.parse(data)
        except Exception:
            _logger.exception("request not parsed after a defect")
            self.refuse(InvalidInput.one("request", "could not be parsed as a message of this method"))
            return None

    def refuse(self, error: MilepostError, *, retry_in_s: float | None = None) -> None:
        """Ends the call, unless it is over."""
        status, trailing_metadata = answer_of(error, retry_in_s)
        with self.state.condition:
            if internals._is_rpc_state_active(self.state):
                self.state.trailing_metadata = trailing_metadata
                code = internals._application_code(status.code)
                internals._abort(self.state, self.rpc_event.call, code, status.details.encode())


class Receives(Protocol):
    """What receives the messages of the calls of a pool."""

    def receive(self, call: Call, run: Callable[[tuple[Any, ...]], None], pool: str | None) -> None:
        """Runs the call's task, once, when there is no more to wait for. Until then the call gives way to
        others of the pool, if one is given.
        """
        ...

    def refuse_longest(self, pool: str) -> bool:
        """Ends the call that the pool has waited for longest. False: no call has waited for long."""
        ...


class NoMessages:
    """Receives none: a refusal is sent at once, and holds nothing while its caller is silent."""

    def receive(self, call: Call, run: Callable[[tuple[Any, ...]], None], pool: str | None) -> None:
        """Runs the call's task."""
        run(call.without_message())

    def refuse_longest(self, pool: str) -> bool:
        """No: it waits for none."""
        return False


class FirstMessages(Repeating):
    """Receives the messages of calls with one request. Its thread refuses calls whose message is not there
    after `limit_s` seconds.
    """

    def __init__(self, limit_s: float) -> None:
        super().__init__("first-messages")
        self._limit_s = limit_s
        self._awaited: dict[int, tuple[float, Call, str | None]] = {}
        """Since when, and in which pool they give way, by identity, in order of time."""

    def receive(self, call: Call, run: Callable[[tuple[Any, ...]], None], pool: str | None) -> None:
        """Receives the message, then runs the call's task. Also runs it when the caller ends the call."""
        received = internals._receive_message(call.state, call.rpc_event.call, None)

        def message_came(event: Any) -> Any:
            finished = received(event)
            self._awaited.pop(id(call), None)
            run(call.with_message())
            return finished

        with call.state.condition:
            self._awaited[id(call)] = time.monotonic(), call, pool
            call.rpc_event.call.start_server_batch(
                (cygrpc.ReceiveMessageOperation(internals._EMPTY_FLAGS),), message_came
            )
            call.state.due.add(internals._RECEIVE_MESSAGE_TOKEN)

    def refuse_all(self, retry_in_s: float) -> None:
        """Refuses the calls whose message has not come, as the service stops."""
        for _, call, _ in list(self._awaited.values()):
            call.refuse(StoreUnavailable("the service is stopping; try again"), retry_in_s=retry_in_s)

    def refuse_longest(self, pool: str) -> bool:
        """Ends the call whose message the pool has waited for longest. False: no call has waited for long."""
        latest = time.monotonic() - SILENT_S_MIN
        for key, (since, call, name) in list(self._awaited.items()):
            if since > latest:
                return False
            if name == pool and self._awaited.pop(key, None) is not None:
                call.refuse(self._idle("while others called"))
                return True
        return False

    def _turn(self) -> float:
        latest = time.monotonic() - self._limit_s
        for since, call, _ in list(self._awaited.values()):
            if since > latest:
                break
            call.refuse(self._idle(f"for {self._limit_s:g} seconds"))
        return SWEEP_INTERVAL_S

    def _idle(self, while_: str) -> Aborted:
        return Aborted(
            f"no request came {while_}; call again when there is one",
            reason="STREAM_IDLE",
            metadata={"limit_s": f"{self._limit_s:g}"},
        )
