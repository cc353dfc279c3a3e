"""Hands calls on to the writer: the bytes of every message, the caller's metadata and deadline, and the other
way the answers, the metadata and the status with its details.

A call ends at the writer when its caller gives up, and here when the reader stops.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from engine.errors import DeadlineExceeded, MilepostError, StoreUnavailable
from service.errors import abort
from service.methods import Kind, kind_of
from service.peers import PEER_KEY
from service.stopping import Stopping

STATUS_DETAILS_KEY = "grpc-status-details-bin"
_OWN_KEYS = frozenset({"user-agent", PEER_KEY})
"""Metadata of the caller's that this hop writes itself."""
_OWN_PREFIX = "grpc-"

ENDED_AT_ONCE = frozenset({Kind.STREAM, Kind.IMPORT, Kind.WATCHER, Kind.PROBE})
"""Kinds of call that would not end by themselves: a stop does not wait for them."""

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The caller decides whether to repeat a call.
    ("grpc.enable_retries", 0),
)

_Forward = Callable[[Any, grpc.ServicerContext], Any]


class Forwarder:
    """Calls the writer in the name of callers."""

    def __init__(self, writer_socket: str, stopping: Stopping) -> None:
        self._channel = grpc.insecure_channel(f"unix:{writer_socket}", options=_OPTIONS)
        self._stopping = stopping
        self._running: dict[Any, Kind] = {}
        self._lock = threading.Lock()

    def unary(self, method: str) -> _Forward:
        """What hands on a method with one request and one answer."""
        call_writer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        kind = kind_of(method)

        def forward(request: bytes, context: grpc.ServicerContext) -> Any:
            call = call_writer.future(request, timeout=_seconds_left(context), metadata=_metadata_of(context))
            self._begin(call, kind, context)
            try:
                answer = call.result()
                _hand_back_metadata(call, context)
                return answer
            except (grpc.RpcError, grpc.FutureCancelledError):
                self._refuse(call, context)
            finally:
                self._end(call)

        return forward

    def stream(self, method: str) -> _Forward:
        """What hands on a method of any form."""
        call_writer: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(method)
        kind = kind_of(method)

        def forward(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            handed_on = _Requests(requests)
            call = call_writer(handed_on, timeout=_seconds_left(context), metadata=_metadata_of(context))
            handed_on.belong_to(call)
            self._begin(call, kind, context)
            try:
                # It waits for that of the writer, which comes with its first answer at the latest.
                if initial := call.initial_metadata():
                    context.send_initial_metadata(initial)
                yield from call
                context.set_trailing_metadata(call.trailing_metadata())
            except grpc.RpcError:
                self._refuse(call, context)
            finally:
                call.cancel()
                self._end(call)

        return forward

    def end_streams(self) -> None:
        """Ends the calls that would not end by themselves."""
        self._cancel(ENDED_AT_ONCE)

    def end_all(self) -> None:
        """Ends every call."""
        self._cancel(frozenset(Kind))

    def close(self) -> None:
        """Ends the connection to the writer."""
        self._channel.close()

    def _cancel(self, kinds: frozenset[Kind]) -> None:
        with self._lock:
            calls = [call for call, kind in self._running.items() if kind in kinds]
        for call in calls:
            call.cancel()

    def _begin(self, call: Any, kind: Kind, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._running[call] = kind
        if not context.add_callback(call.cancel):
            call.cancel()
        if self._stopping.is_set() and (kind in ENDED_AT_ONCE or self._stopping.grace_over):
            # It may have begun after the others were ended.
            call.cancel()

    def _end(self, call: Any) -> None:
        with self._lock:
            self._running.pop(call, None)

    def _refuse(self, call: Any, context: grpc.ServicerContext) -> None:
        """Ends the caller's call as the writer's has ended. Raises, as `context.abort` does."""
        code, trailers = call.code(), call.trailing_metadata() or ()
        has_details = any(key == STATUS_DETAILS_KEY for key, _ in trailers)
        if not has_details and self._stopping.is_set() and code is not grpc.StatusCode.OK:
            abort(
                context,
                StoreUnavailable("the service is stopping; try again"),
                retry_in_s=self._stopping.retry_in_s,
            )
        reason = None if has_details else _reason_of(code)
        if reason is not None:
            abort(context, reason)
        context.set_trailing_metadata(trailers)
        context.abort(code, call.details() or "")


class _Requests(Iterator[bytes]):
    """The requests of a caller's stream. If the caller breaks it off, the writer's call is cancelled: it must
    not take the requests so far for all of them.
    """

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._call: Any = None
        self._has_call = threading.Event()

    def belong_to(self, call: Any) -> None:
        """The call that hands the requests on."""
        self._call = call
        self._has_call.set()

    def __next__(self) -> bytes:
        try:
            return next(self._requests)
        except grpc.RpcError:
            self._has_call.wait()
            self._call.cancel()
            raise StopIteration from None


def was_refused(context: grpc.ServicerContext) -> bool:
    """Whether the call has been aborted, so that an exception is none of a defect."""
    # A method of the context since grpcio 1.44 that its type stubs lack.
    return context.code() is not None  # type: ignore[attr-defined]


def _reason_of(code: grpc.StatusCode) -> MilepostError | None:
    """The reason of a status that came from the connection and not from the writer."""
    if code is grpc.StatusCode.UNAVAILABLE:
        return StoreUnavailable("the service is starting or stopping; try again")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("the deadline passed before the call was answered")
    return None


def _hand_back_metadata(call: Any, context: grpc.ServicerContext) -> None:
    initial, trailing = call.initial_metadata(), call.trailing_metadata()
    if initial:
        context.send_initial_metadata(initial)
    if trailing:
        context.set_trailing_metadata(trailing)


def _seconds_left(context: grpc.ServicerContext) -> float | None:
    remaining_s = context.time_remaining()
    # A call without a deadline reports a remaining time as well, too large for any wait.
    return None if remaining_s > threading.TIMEOUT_MAX else remaining_s


def _metadata_of(context: grpc.ServicerContext) -> tuple[tuple[str, str | bytes], ...]:
    handed_on = (
        (key, value)
        for key, value in context.invocation_metadata()
        if key not in _OWN_KEYS and not key.startswith(_OWN_PREFIX)
    )
    return (*handed_on, (PEER_KEY, context.peer()))
