"""What all answers of a reader have in common: questions it is asked, and handing on what it cannot answer.

A call that cannot be answered exactly here is handed on whole. Nothing is refused here: whatever is wrong
with a call, the writer says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc
import structlog

from engine.backends.base import ServingReader
from engine.errors import InvalidInput, LimitExceeded
from engine.measures import Durations
from service.access_log import CallLog
from service.auth.caller import current_call, current_caller
from service.auth.meter import Meters
from service.convert.revisions import Revisions
from service.readers.forwarding import was_refused
from service.readers.keys import ReaderKeys
from service.slots import Slots
from service.telemetry.calls import SECONDS_BUCKETS
from service.telemetry.request_ids import CURRENT, Request

AUDIENCE_SERVICE = "/milepost.v1.AudienceService/"

HandOn: TypeAlias = Callable[[bytes, grpc.ServicerContext], bytes]
"""Hands a call on to the writer: request, context → answer."""

HandOnStream: TypeAlias = Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]
"""Hands a call with a stream of answers on to the writer: requests, context → answers."""
AnswerStream: TypeAlias = Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]
"""A behaviour: request, context → answers."""

_logger = structlog.get_logger("milepost.reader")

A = TypeVar("A")


class Running:
    """The current call, as one that runs here for longer. Call `end` when it ends."""

    def __init__(self, keys: ReaderKeys, meters: Meters, slots: Slots) -> None:
        self._keys = keys
        self._meters = meters
        self._slots = slots
        # Streams go on in other contexts.
        self._method, self._caller = current_call()
        slots.take(self._caller.holder)

    def check(self) -> None:
        """Raises Unauthenticated, ScopeMissing once its key does not permit it any more."""
        self._keys.check(self._method, self._caller)

    def end(self) -> None:
        """It has ended."""
        self._slots.give_back(self._caller.holder)
        self._meters.end()


class Answering:
    """Answers calls, or hands them on, and counts and logs those that were answered here."""

    def __init__(self, served: ServingReader, revisions: Revisions, keys: ReaderKeys, log: CallLog) -> None:
        self.served = served
        self.revisions = revisions
        self._keys = keys
        self._log = log
        self.answered: dict[str, Durations] = {}
        """By method: calls that were answered here, and how long that took."""

    def unary(
        self, method: str, find: Callable[[bytes, grpc.ServicerContext], bytes | None], hand_on: HandOn
    ) -> HandOn:
        """The behaviour of a method: gives the answer that `find` finds, and hands the call on when it finds
        none. The writer counts and logs what is handed on.
        """
        count = self.answered.setdefault(method, Durations(SECONDS_BUCKETS)).add
        log = self._log.succeeded

        def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
            began = time.perf_counter()
            try:
                answer = find(request, context)
            except Exception:
                if was_refused(context):
                    raise
                # A defect here is no reason for the caller to go without an answer.
                _logger.exception("call handed on after a defect", method=method)
                answer = None
            if answer is None:
                return hand_on(request, context)
            elapsed_s = time.perf_counter() - began
            count(elapsed_s)
            _end(log, method, context, elapsed_s)
            return answer

        return behaviour

    def stream(
        self,
        method: str,
        find: Callable[[bytes, grpc.ServicerContext], Iterator[bytes] | None],
        hand_on: HandOnStream,
    ) -> AnswerStream:
        """As `unary`, of a method with a stream of answers. Once the first is sent, a call is not handed on
        any more.
        """
        count = self.answered.setdefault(method, Durations(SECONDS_BUCKETS)).add
        log = self._log.finished

        def behaviour(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            began = time.perf_counter()
            try:
                answers = find(request, context)
            except Exception:
                _logger.exception("call handed on after a defect", method=method)
                answers = None
            if answers is None:
                yield from hand_on(iter((request,)), context)
                return
            yield from answers
            elapsed_s = time.perf_counter() - began
            count(elapsed_s)
            _end(log, method, context, elapsed_s)

        return behaviour

    def failed(self, method: str, context: grpc.ServicerContext, elapsed_s: float, error: Exception) -> None:
        """Logs a stream that was answered here and did not end well."""
        _end(partial(self._log.failed, error=error), method, context, elapsed_s)

    def begin(self, name: str, slots: Slots) -> Running | None:
        """The current call, which asks for a resource of that name, as one that runs for longer and takes one
        of some slots; None when its key does not permit it, or there is no slot for it.
        """
        meters = self._keys.admit(name)
        if meters is None:
            return None
        try:
            slots.check(current_caller().holder)
        except LimitExceeded:
            meters.end()
            return None
        return Running(self._keys, meters, slots)

    def admitted(self, name: str, answer: Callable[[], A | None]) -> A | None:
        """What `answer` gives, as the current call, which asks for a resource of that name; None when its key
        does not permit it.
        """
        meters = self._keys.admit(name)
        if meters is None:
            return None
        try:
            return answer()
        finally:
            # Not for longer: the writer counts what is handed on.
            meters.end()

    def is_for_now(self, asked: Any) -> bool:
        """Whether the question is about now, and about revisions that are served."""
        if asked.HasField("as_of"):
            return False
        if not asked.at_least:
            return True
        try:
            # A later revision than the newest one that is served is no revision here.
            self.revisions.revision(asked.at_least)
        except InvalidInput:
            return False
        return True


def _end(
    log: Callable[[str, grpc.ServicerContext, float], None],
    method: str,
    context: grpc.ServicerContext,
    elapsed_s: float,
) -> None:
    """Logs a call that was answered here, and gives its caller the id that it sent or that the log has."""
    request = Request(context)
    CURRENT.set(request)
    try:
        log(method, context, elapsed_s)
    finally:
        CURRENT.set(None)
    if request.has_id:
        request.name()
