"""Checks that a reader answers."""

from __future__ import annotations

from functools import partial

import grpc
import numpy as np
import numpy.typing as npt

from engine.audiences.checks import BATCH_PAIRS_MAX, batch_of
from engine.backends.base import MEMBER, NOT_MEMBER, UNDECIDED, ServedMany
from milepost.v1 import audience_service_pb2 as pb
from service.convert.batch_checks import batch_check_message
from service.convert.times import micros_of, timestamp
from service.readers.answering import AUDIENCE_SERVICE, Answering, HandOn
from service.reading import RequestReader

CHECK_METHOD = f"{AUDIENCE_SERVICE}CheckMembership"
BATCH_CHECK_METHOD = f"{AUDIENCE_SERVICE}BatchCheckMembership"

_FLAGS = {pb.MEMBERSHIP_STATUS_MEMBER: MEMBER, pb.MEMBERSHIP_STATUS_NOT_MEMBER: NOT_MEMBER}


class CheckAnswers:
    """Answers CheckMembership and BatchCheckMembership."""

    def __init__(self, answering: Answering, reader: RequestReader) -> None:
        self._answering = answering
        self._served = answering.served
        self._id_bytes_max = reader.limits.name_bytes_max
        self._read_check = reader.of(CHECK_METHOD, pb.CheckMembershipRequest.FromString)
        self._read_batch = reader.of(BATCH_CHECK_METHOD, pb.BatchCheckMembershipRequest.FromString)

    def check(self, hand_on: HandOn) -> HandOn:
        """The behaviour of CheckMembership."""
        return self._answering.unary(CHECK_METHOD, self._check, hand_on)

    def batch_check(self, hand_on: HandOn) -> HandOn:
        """The behaviour of BatchCheckMembership."""
        return self._answering.unary(BATCH_CHECK_METHOD, partial(self._batch_check, hand_on=hand_on), hand_on)

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes | None:
        asked = self._read_check(request)
        if not isinstance(asked, pb.CheckMembershipRequest) or not self._answering.is_for_now(asked):
            return None
        audience, user_id = asked.audience, asked.user_id
        if not self._is_id(user_id):
            return None
        answer = self._answering.admitted(audience, lambda: self._served.contains(audience, user_id))
        if answer is None:
            return None
        return pb.CheckMembershipResponse(
            member=answer.member,
            as_of=timestamp(answer.as_of),
            revision=self._answering.revisions.token(answer.revision),
        ).SerializeToString()

    def _batch_check(self, request: bytes, context: grpc.ServicerContext, hand_on: HandOn) -> bytes | None:
        asked = self._read_batch(request)
        if not isinstance(asked, pb.BatchCheckMembershipRequest) or not self._answering.is_for_now(asked):
            return None
        account, user_ids, names = asked.parent, tuple(asked.user_ids), tuple(asked.audiences)
        if not 0 < len(user_ids) * len(names) <= BATCH_PAIRS_MAX or not all(map(self._is_id, user_ids)):
            return None
        distinct = tuple(dict.fromkeys(names))
        answer = self._answering.admitted(
            account, lambda: self._served.contains_many(account, distinct, user_ids)
        )
        as_of = (
            None if answer is None else self._decide(answer, account, distinct, user_ids, context, hand_on)
        )
        if answer is None or as_of is None:
            return None
        places = [distinct.index(name) for name in names]
        batch = batch_of(answer.flags, user_ids, places, as_of, answer.revision)
        return batch_check_message(batch, self._answering.revisions).SerializeToString()

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

    def _is_id(self, user_id: str) -> bool:
        return 1 <= len(user_id.encode()) <= self._id_bytes_max


def _flags_of(found: pb.BatchCheckMembershipResponse) -> npt.NDArray[np.int8]:
    statuses = [[_FLAGS.get(status, UNDECIDED) for status in user.statuses] for user in found.users]
    return np.array(statuses, np.int8)
