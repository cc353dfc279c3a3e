"""Answers of checks as messages."""

from __future__ import annotations

from engine.audiences.model import Check
from engine.values import Micros
from milepost.v1.audience_service_pb2 import CheckMembershipResponse
from service.convert.revisions import Revisions
from service.convert.times import timestamp


class CheckMessages:
    """The messages of checks. Audiences that one round has refreshed are answered for the same instant, and
    such answers differ in nothing but `member`. So the latest two messages are kept. Do not modify them. Safe
    to call from several threads.
    """

    def __init__(self, revisions: Revisions) -> None:
        self._revisions = revisions
        # Replaced as a whole, so that an instant never gets the messages of another.
        self._latest: tuple[Micros, int, list[CheckMembershipResponse | None]] = 0, 0, [None, None]

    def of(self, check: Check) -> CheckMembershipResponse:
        """The message of an answer."""
        as_of, revision, messages = self._latest
        if as_of != check.as_of or revision != check.revision:
            messages = [None, None]
            self._latest = check.as_of, check.revision, messages
        message = messages[check.member]
        if message is None:
            message = messages[check.member] = CheckMembershipResponse(
                member=check.member,
                as_of=timestamp(check.as_of),
                revision=self._revisions.token(check.revision),
            )
        return message
