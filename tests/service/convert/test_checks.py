"""Answers of checks become the same messages as if each were made anew."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.audiences.model import Check
from engine.values import TIME_MAX_MICROS
from milepost.v1.audience_service_pb2 import CheckMembershipResponse
from service.convert.checks import CheckMessages
from service.convert.revisions import Revisions
from service.convert.times import timestamp
from tests.service.convert.test_batch_checks import Unsigned

instants = st.sampled_from((0, 1, 1_700_000_000_123_456, TIME_MAX_MICROS))
checks = st.builds(Check, member=st.booleans(), as_of=instants, revision=st.integers(0, 2))


@given(st.lists(checks, max_size=20))
def test_messages_are_those_of_their_answers(answers: list[Check]) -> None:
    revisions = Revisions("store", Unsigned(), lambda: 2)  # type: ignore[arg-type]
    messages = CheckMessages(revisions)
    for check in answers:
        assert messages.of(check) == CheckMembershipResponse(
            member=check.member,
            as_of=timestamp(check.as_of),
            revision=revisions.token(check.revision),
        )
