"""Answers of batch checks become the same messages as if their fields were set one by one."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from engine.audiences.model import BatchCheck, MembershipStatus
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS
from milepost.v1 import audience_service_pb2 as pb
from service.convert.batch_checks import batch_check_message
from service.convert.revisions import Revisions
from service.convert.times import timestamp

NUMBERS = {
    MembershipStatus.MEMBER: pb.MEMBERSHIP_STATUS_MEMBER,
    MembershipStatus.NOT_MEMBER: pb.MEMBERSHIP_STATUS_NOT_MEMBER,
    MembershipStatus.UNKNOWN_AUDIENCE: pb.MEMBERSHIP_STATUS_UNKNOWN_AUDIENCE,
}


@dataclass
class Unsigned:
    """Signs nothing."""

    def sign(self, body: bytes) -> bytes:
        return b""


@given(
    answered=st.integers(0, 300).flatmap(
        lambda audiences: st.tuples(
            st.lists(
                st.lists(st.sampled_from(MembershipStatus), min_size=audiences, max_size=audiences).map(
                    tuple
                ),
                min_size=1,
                max_size=3,
            ),
            # Around 127 bytes a length takes one byte more.
            st.lists(st.one_of(st.text(max_size=4), st.text("aé", min_size=120, max_size=300)), max_size=6),
        )
    ),
    turns=st.lists(st.integers(0, 2), min_size=6, max_size=6),
    as_of=st.integers(TIME_MIN_MICROS, TIME_MAX_MICROS),
)
def test_users_have_the_statuses_of_their_rows(
    answered: tuple[list[tuple[MembershipStatus, ...]], list[str]], turns: list[int], as_of: int
) -> None:
    patterns, user_ids = answered
    rows = [turn % len(patterns) for _, turn in zip(user_ids, turns, strict=False)]
    revisions = Revisions("store", Unsigned(), lambda: 9)  # type: ignore[arg-type]
    message = batch_check_message(BatchCheck(tuple(user_ids), rows, tuple(patterns), as_of, 7), revisions)
    expected = pb.BatchCheckMembershipResponse(
        users=[
            pb.UserMemberships(user_id=user_id, statuses=[NUMBERS[each] for each in patterns[row]])
            for user_id, row in zip(user_ids, rows, strict=True)
        ],
        as_of=timestamp(as_of),
        revision=revisions.token(7),
    )
    assert message == expected
    assert message.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
