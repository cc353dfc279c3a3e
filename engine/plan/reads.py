"""What data the answer of a plan depends on.

Stored memberships are refreshed for users with new data. Most data concern few audiences, so each plan says
what it reads, and a backend looks only at users with such data. A step that is not sure reads too much, never
too little: every kind of step has its method here.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.criteria.conditions import WhereAll, WhereAny, WhereAttribute, WhereNot, tests_in
from engine.criteria.model import EventType
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    Difference,
    Empty,
    EventMatch,
    EventSelection,
    IdentityMatch,
    Intersection,
    RowFilter,
    SeenMatch,
    SequenceMatch,
    Step,
    Union,
    Universe,
    UserIdMatch,
)
from engine.plan.visitor import StepVisitor


class EventsRead(msgspec.Struct, frozen=True, array_like=True):
    """Events of one input and name ("" = any) and type (None = any). With `keys` only those that have at
    least one of these attributes.
    """

    input: str
    name: str
    type: EventType | None = None
    keys: frozenset[str] = frozenset()


class Reads(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """The data that can change an answer: nothing else does, except an alias or an erasure.

    `inputs`: a user comes to belong to one of them. `first_seen`, `last_seen`: a user's first or last time on
    one of these inputs changes. `attributes` are pairs of workspace and key, `consents` of regulation and
    purpose, `identities` types. `users`: a user comes to exist.
    """

    inputs: frozenset[str] = frozenset()
    first_seen: frozenset[str] = frozenset()
    last_seen: frozenset[str] = frozenset()
    events: frozenset[EventsRead] = frozenset()
    attributes: frozenset[tuple[str, str]] = frozenset()
    identities: frozenset[str] = frozenset()
    consents: frozenset[tuple[str, str]] = frozenset()
    users: bool = False

    def __or__(self, other: Reads) -> Reads:
        return Reads(
            inputs=self.inputs | other.inputs,
            first_seen=self.first_seen | other.first_seen,
            last_seen=self.last_seen | other.last_seen,
            events=self.events | other.events,
            attributes=self.attributes | other.attributes,
            identities=self.identities | other.identities,
            consents=self.consents | other.consents,
            users=self.users or other.users,
        )


NOTHING = Reads()


def reads_of(steps: Iterable[Step]) -> Reads:
    """What these steps read together. Give it steps that no pass has optimised: a pass may leave out a step
    that only has no users as of one instant.
    """
    found = NOTHING
    for step in steps:
        found |= _READS.visit(step)
    return found


class _Reads(StepVisitor[Reads]):
    def universe(self, step: Universe) -> Reads:
        return Reads(inputs=frozenset(step.inputs))

    def empty(self, step: Empty) -> Reads:
        return NOTHING

    def intersection(self, step: Intersection) -> Reads:
        return NOTHING

    def union(self, step: Union) -> Reads:
        return NOTHING

    def difference(self, step: Difference) -> Reads:
        return NOTHING

    def attribute(self, step: AttributeMatch) -> Reads:
        return Reads(attributes=frozenset((workspace, step.key) for workspace in step.workspaces))

    def seen(self, step: SeenMatch) -> Reads:
        inputs = frozenset(step.inputs)
        return Reads(last_seen=inputs) if step.last else Reads(first_seen=inputs)

    def identity(self, step: IdentityMatch) -> Reads:
        return Reads(identities=frozenset({step.type}))

    def user_id(self, step: UserIdMatch) -> Reads:
        return Reads(users=True)

    def consent(self, step: ConsentMatch) -> Reads:
        return Reads(consents=frozenset({(step.regulation, step.purpose)}))

    def event(self, step: EventMatch) -> Reads:
        # Events without the attribute take no part in the aggregate.
        needed = frozenset({step.of}) if step.aggregate.is_of_attribute else None
        return _events(step.selection, needed)

    def sequence(self, step: SequenceMatch) -> Reads:
        found = NOTHING
        for selection in step.steps:
            found |= _events(selection, None)
        return found

    def bucket(self, step: BucketMatch) -> Reads:
        return Reads(users=True)


_READS = _Reads()


def _events(selection: EventSelection, needed: frozenset[str] | None) -> Reads:
    keys = _needed_keys(selection.where) if needed is None else needed
    return Reads(
        events=frozenset(
            EventsRead(input_name, selection.name, selection.type, keys) for input_name in selection.inputs
        )
    )


def _needed_keys(where: RowFilter | None) -> frozenset[str]:
    """Attributes of which an event must have one to pass; none when it may pass without."""
    if where is None or _passes_without_attributes(where):
        return frozenset()
    return frozenset(test.key for test in tests_in(where))


def _passes_without_attributes(where: RowFilter) -> bool:
    match where:
        case WhereAll():
            return all(map(_passes_without_attributes, where.conditions))
        case WhereAny():
            return any(map(_passes_without_attributes, where.conditions))
        case WhereNot():
            return not _passes_without_attributes(where.condition)
        case WhereAttribute():
            return False
