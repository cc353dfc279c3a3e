"""The questions of the contract: methods that answer for an instant. They are found by what they answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, MethodDescriptor

from tests.clients.fake import methods

NO_QUESTIONS = {
    "GetAudience": "shows the stored size, or an estimate for now, as a screen does",
    "ListAudiences": "lists audiences, without sizes",
    "UpdateAudience": "changes a name",
    "ListAudienceSizes": "is a history: its points have their own times",
    "WatchMembership": "continues from a cursor",
}
"""Methods whose answers can hold sizes or members, and why they answer for no instant."""
ANSWERS_OF_EVALUATIONS = {
    "milepost.v1.Evaluation",
    "milepost.v1.Size",
    "milepost.v1.AudienceSize",
    "milepost.v1.AudienceSizePoint",
    "milepost.v1.MembershipChange",
}


def messages_of(message: Descriptor, seen: set[str] | None = None) -> Iterator[Descriptor]:
    """A message and all messages inside it."""
    seen = set() if seen is None else seen
    if message.full_name not in seen:
        seen.add(message.full_name)
        yield message
        fields: Iterable[Any] = message.fields
        for field in fields:
            if field.message_type is not None:
                yield from messages_of(field.message_type, seen)


def answers_for_an_instant(method: MethodDescriptor) -> bool:
    """Whether an answer is the result of an evaluation: it has its instant, or sizes, or members."""
    found = list(messages_of(method.output_type))
    return any(each.full_name in ANSWERS_OF_EVALUATIONS or "as_of" in each.fields_by_name for each in found)


def questions() -> set[str]:
    """The names of the questions."""
    found = {method.name for method in methods() if answers_for_an_instant(method)}
    assert NO_QUESTIONS.keys() <= found
    return found - NO_QUESTIONS.keys()
