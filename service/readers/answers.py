"""What a reader answers itself: checks, from the memory that the writer serves.

A call that cannot be answered exactly here is handed on whole. Nothing is refused here: whatever is wrong
with a call, the writer says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import grpc
import numpy as np
import numpy.typing as npt
import structlog

from engine.audiences.checks import BATCH_PAIRS_MAX, batch_of
from engine.backends.base import MEMBER, NOT_MEMBER, UNDECIDED, ServedMany, ServingReader
from engine.errors import InvalidInput
from engine.limits import Limits
from engine.measures import Durations
from milepost.v1 import audience_service_pb2 as pb
from service.access_log import CallLog
from service.convert.batch_checks import batch_check_message
from service.convert.revisions import Revisions
from service.convert.times import micros_of, timestamp
from service.readers.forwarding import was_refused
from service.readers.keys import ReaderKeys
from service.reading import RequestReader
from service.telemetry.calls import SECONDS_BUCKETS
from service.telemetry.request_ids import Request

CHECK_METHOD = "/milepost.v1.AudienceService/CheckMembership"
BATCH_CHECK_METHOD = "/milepost.v1.AudienceService/BatchCheckMembership"

HandOn: TypeAlias = Callable[[bytes, grpc.ServicerContext], bytes]
"""Hands a call on to the writer: request, context → answer."""

_logger = structlog.get_logger("milepost.reader")

_FLAGS = {pb.MEMBERSHIP_STATUS_MEMBER: MEMBER, pb.MEMBERSHIP_STATUS_NOT_MEMBER: NOT_MEMBER}


class Answers:
    """Answers checks, and hands on what it cannot answer."""

    def __init__(
        self,
        served: ServingReader,
        revisions: Revisions,
        keys: ReaderKeys,
        reader: RequestReader,
        limits: Limits,
        log: CallLog,
    ) -> None:
        self._served = served
        self._revisions = revisions
        self._keys = keys
        self._log = log
        self._id_bytes_max = limits.name_bytes_max
        self.answered = {method: Durations(SECONDS_BUCKETS) for method in (CHECK_METHOD, BATCH_CHECK_METHOD)}
        """Calls that were answered here, and how long that took."""
        self._read_check = reader.of(CHECK_METHOD, pb.CheckMembershipRequest.FromString)
        self._read_batch = reader.of(BATCH_CHECK_METHOD, pb.BatchCheckMembershipRequest.FromString)

    def check(self, hand_on: HandOn) -> HandOn:
        """The behaviour of CheckMembership."""
        return self._answering(CHECK_METHOD, self._check, hand_on)

    def batch_check(self, hand_on: HandOn) -> HandOn:
        """The behaviour of BatchCheckMembership."""
        return self._answering(BATCH_CHECK_METHOD, partial(self._batch_check, hand_on=hand_on), hand_on)

    def _answering(
        self,
        method: str,
        find: Callable[[bytes, grpc.ServicerContext], bytes | None],
        hand_on: HandOn,
    ) -> HandOn:
        """Gives the answer that `find` finds, and hands the call on when it finds none. The writer counts and
        logs what is handed on.
        """
        count, log = self.answered[method].add, self._log.succeeded

        def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
            began = time.perf_counter()
            try:
                answer = find(request, context)
            except Exception:
                if was_refused(context):
                    raise
                # A defect here is no reason for the caller to go without an answer.
                _logger.exception("check handed on after a defect", method=method)
                answer = None
            if answer is None:
                return hand_on(request, context)
            elapsed_s = time.perf_counter() - began
            count(elapsed_s)
            log(method, context, elapsed_s)
            return answer

        return behaviour

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes | None:
        asked = self._read_check(request)
        if not isinstance(asked, pb.CheckMembershipRequest) or not self._is_for_here(asked):
            return None
        if not self._is_id(asked.user_id):
            return None
        meters = self._keys.admit(asked.audience)
        if meters is None:
            return None
        try:
            answer = self._served.contains(asked.audience, asked.user_id)
        finally:
            meters.end()
        if answer is None:
            return None
        _name(context)
        return pb.CheckMembershipResponse(
            member=answer.member,
            as_of=timestamp(answer.as_of),
            revision=self._revisions.token(answer.revision),
        ).SerializeToString()

    def _batch_check(self, request: bytes, context: grpc.ServicerContext, hand_on: HandOn) -> bytes | None:
        asked = self._read_batch(request)
        if not isinstance(asked, pb.BatchCheckMembershipRequest) or not self._is_for_here(asked):
            return None
        user_ids, names = tuple(asked.user_ids), tuple(asked.audiences)
        if not 0 < len(user_ids) * len(names) <= BATCH_PAIRS_MAX or not all(map(self._is_id, user_ids)):
            return None
        meters = self._keys.admit(asked.parent)
        if meters is None:
            return None
        distinct = tuple(dict.fromkeys(names))
        try:
            answer = self._served.contains_many(asked.parent, distinct, user_ids)
        finally:
            # Not for longer: the writer counts what is handed on.
            meters.end()
        as_of = (
            None
            if answer is None
            else self._decide(answer, asked.parent, distinct, user_ids, context, hand_on)
        )
        if answer is None or as_of is None:
            return None
        places = [distinct.index(name) for name in names]
        _name(context)
        batch = batch_of(answer.flags, user_ids, places, as_of, answer.revision)
        return batch_check_message(batch, self._revisions).SerializeToString()

    def _decide(
        self,
        answer: ServedMany,
        account: str,
        names: tuple[str, ...],
        user_ids: tuple[str, ...],
        context: grpc.ServicerContext,
        hand_on: HandOn,
    ) -> int | None:
        """Has the writer decide about users who are undecided in some audience. Returns the oldest instant of
        both answers; None when the writer's may be of other definitions.
        """
        rows = np.flatnonzero((answer.flags == UNDECIDED).any(axis=1))
        if not len(rows):
            return answer.as_of
        if 2 * len(rows) > len(user_ids):
            # Hardly worth two answers.
            return None
        request = pb.BatchCheckMembershipRequest(
            parent=account, user_ids=[user_ids[row] for row in rows.tolist()], audiences=names
        )
        found = pb.BatchCheckMembershipResponse.FromString(hand_on(request.SerializeToString(), context))
        if not self._served.is_current(answer):
            return None
        decided = _flags_of(found)
        undecided = answer.flags[rows] == UNDECIDED
        answer.flags[rows] = np.where(undecided, decided, answer.flags[rows])
        as_of = micros_of(found.as_of)
        return None if as_of is None or (answer.flags == UNDECIDED).any() else min(answer.as_of, as_of)

    def _is_for_here(self, asked: Any) -> bool:
        """Whether the question is about now, and about revisions that are served."""
        if asked.HasField("as_of"):
            return False
        if not asked.at_least:
            return True
        try:
            # A later revision than the newest one that is served is no revision here.
            self._revisions.revision(asked.at_least)
        except InvalidInput:
            return False
        return True

    def _is_id(self, user_id: str) -> bool:
        return 1 <= len(user_id.encode()) <= self._id_bytes_max


def _flags_of(found: pb.BatchCheckMembershipResponse) -> npt.NDArray[np.int8]:
    statuses = [[_FLAGS.get(status, UNDECIDED) for status in user.statuses] for user in found.users]
    return np.array(statuses, np.int8)


def _name(context: grpc.ServicerContext) -> None:
    """Gives a caller back the id that it sent."""
    request = Request(context)
    if request.has_id:
        request.name()
