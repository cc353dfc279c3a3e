"""The data that a criterion uses: events, attributes, identities, consents and audiences, each with its path.

For warnings about data that are not there, and for deletions. Paths read as those of faults.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, assert_never

import msgspec

from engine.criteria.model import (
    BUILT_IN_ATTRIBUTES,
    Aggregate,
    AllOf,
    AnyOf,
    Audience,
    Bucket,
    Consent,
    Criterion,
    Event,
    EventType,
    Identity,
    Not,
    Sequence,
    Step,
    UserAttribute,
    ValueTest,
    Where,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
)
from engine.criteria.operators import ANY_KIND, NUMBERS, kinds_tested
from engine.criteria.operators.base import Form
from engine.criteria.visitor import CriterionVisitor
from engine.values import Kind


class Tested(msgspec.Struct, frozen=True):
    """What becomes of a value: only the kinds, and strings of the form if there is one, can pass."""

    path: str
    kinds: frozenset[Kind]
    form: Form | None = None


class EventsUsed(msgspec.Struct, frozen=True):
    """Events of a name ("" = any) and type (None = any), through `inputs` or, without, those of the
    journey.
    """

    path: str
    inputs: tuple[str, ...]
    name: str
    type: EventType | None


class EventValuesUsed(msgspec.Struct, frozen=True):
    """An attribute of events."""

    path: str
    events: EventsUsed
    key: str
    tested: Tested


class UserValuesUsed(msgspec.Struct, frozen=True):
    """An attribute of users."""

    path: str
    key: str
    tested: Tested


class IdentitiesUsed(msgspec.Struct, frozen=True):
    """Identities of a type."""

    path: str
    type: str
    tested: Tested


class ConsentsUsed(msgspec.Struct, frozen=True):
    """Consents, given or denied."""

    path: str
    regulation: str
    purpose: str


class AudienceUsed(msgspec.Struct, frozen=True):
    """An audience, by resource name."""

    path: str
    name: str


Use: TypeAlias = EventsUsed | EventValuesUsed | UserValuesUsed | IdentitiesUsed | ConsentsUsed | AudienceUsed


def uses_of(criterion: Criterion, root: str) -> Iterator[Use]:
    """The uses of a valid criterion in reading order. Paths start at `root`."""
    return _Uses().visit(criterion, f"{root}.{criterion.__struct_config__.tag}")


def inputs_in(criterion: Criterion) -> frozenset[str]:
    """The inputs that a criterion names."""
    uses = uses_of(criterion, "")
    return frozenset(name for use in uses if isinstance(use, EventsUsed) for name in use.inputs)


class _Uses(CriterionVisitor[str, Iterator[Use]]):
    """The context is the path of the node."""

    def all_of(self, criterion: AllOf, path: str) -> Iterator[Use]:
        return self._of_parts(criterion.criteria, path)

    def any_of(self, criterion: AnyOf, path: str) -> Iterator[Use]:
        return self._of_parts(criterion.criteria, path)

    def _of_parts(self, parts: tuple[Criterion, ...], path: str) -> Iterator[Use]:
        for index, part in enumerate(parts):
            yield from uses_of(part, f"{path}.criteria[{index}]")

    def not_(self, criterion: Not, path: str) -> Iterator[Use]:
        return uses_of(criterion.criterion, path)

    def user_attribute(self, criterion: UserAttribute, path: str) -> Iterator[Use]:
        if criterion.key not in BUILT_IN_ATTRIBUTES:
            yield UserValuesUsed(f"{path}.key", criterion.key, _tested(f"{path}.test", criterion.test))

    def event(self, criterion: Event, path: str) -> Iterator[Use]:
        events = _events(criterion, path)
        yield events
        if criterion.where is not None:
            yield from _values(events, criterion.where, f"{path}.where")
        if criterion.aggregate.is_of_attribute:
            kinds = ANY_KIND if criterion.aggregate is Aggregate.DISTINCT else NUMBERS
            yield EventValuesUsed(f"{path}.of", events, criterion.of, Tested(f"{path}.of", kinds))

    def sequence(self, criterion: Sequence, path: str) -> Iterator[Use]:
        for index, step in enumerate(criterion.steps):
            events = _events(step, f"{path}.steps[{index}]")
            yield events
            if step.where is not None:
                yield from _values(events, step.where, f"{path}.steps[{index}].where")

    def audience(self, criterion: Audience, path: str) -> Iterator[Use]:
        yield AudienceUsed(f"{path}.name", criterion.name)

    def consent(self, criterion: Consent, path: str) -> Iterator[Use]:
        yield ConsentsUsed(path, criterion.regulation, criterion.purpose)

    def identity(self, criterion: Identity, path: str) -> Iterator[Use]:
        yield IdentitiesUsed(f"{path}.type", criterion.type, _tested(f"{path}.test", criterion.test))

    def bucket(self, criterion: Bucket, path: str) -> Iterator[Use]:
        return iter(())


def _events(selected: Event | Step, path: str) -> EventsUsed:
    field = ".name" if selected.name else ".type" if selected.type else ""
    return EventsUsed(f"{path}{field}", selected.inputs, selected.name, selected.type)


def _values(events: EventsUsed, where: Where, path: str) -> Iterator[Use]:
    match where:
        case WhereAll() | WhereAny():
            tag = "all_of" if isinstance(where, WhereAll) else "any_of"
            for index, condition in enumerate(where.conditions):
                yield from _values(events, condition, f"{path}.{tag}.conditions[{index}]")
        case WhereNot():
            yield from _values(events, where.condition, f"{path}.not")
        case WhereAttribute():
            at = f"{path}.attribute"
            yield EventValuesUsed(f"{at}.key", events, where.key, _tested(f"{at}.test", where.test))
        case _:
            assert_never(where)


def _tested(path: str, test: ValueTest) -> Tested:
    return Tested(f"{path}.{test.field}", kinds_tested(test), test.form)
