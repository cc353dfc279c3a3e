"""From the names in the steps of a plan to predicates over the store's numbers."""

from __future__ import annotations

from engine.backends.local.account.account import Account
from engine.backends.local.events import (
    NEVER,
    ResolvedEventMatch,
    ResolvedSelection,
    ResolvedSequence,
    RowCondition,
)
from engine.backends.local.query.field_predicate import FieldPredicate
from engine.backends.local.query.predicates import (
    AggregatePredicate,
    BucketPredicate,
    EmptyPredicate,
    Predicate,
    SeenPredicate,
    SequencePredicate,
    UniversePredicate,
    UserIdPredicate,
)
from engine.backends.local.storage.name_table import FieldKind, field_name
from engine.criteria.conditions import WhereAttribute, mapped
from engine.criteria.model import Equals
from engine.criteria.operators import ResolvedTest
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
    TimeRange,
    Union,
    Universe,
    UserIdMatch,
)
from engine.plan.visitor import StepVisitor


def resolve(account: Account, step: Step) -> Predicate | None:
    """The predicate that answers a step from the account's data. None: the step combines other steps."""
    return _Resolver(account).visit(step)


def moved(account: Account, predicate: Predicate, before: Step, step: Step) -> Predicate | None:
    """The predicate of a step that stands in the place of `before`, whose predicate is given. Of most events
    only the window has moved; names and conditions stay resolved.
    """
    time = window_of(before, step)
    if time is not None and isinstance(predicate, AggregatePredicate):
        return predicate.at(time)
    return resolve(account, step)


def window_of(before: Step, step: Step) -> TimeRange | None:
    """The window of a step that differs from `before` in nothing else; None: it is another kind of step, or
    differs in more.
    """
    if not isinstance(before, EventMatch) or not isinstance(step, EventMatch):
        return None
    old, new = before.selection, step.selection
    is_same = (
        (step.aggregate, step.of, step.time_zone, step.intervals)
        == (before.aggregate, before.of, before.time_zone, before.intervals)
    ) and (new.inputs, new.name, new.type, new.where) == (old.inputs, old.name, old.type, old.where)
    return new.time if is_same else None


class _Resolver(StepVisitor[Predicate | None]):
    def __init__(self, account: Account) -> None:
        self._account = account

    def universe(self, step: Universe) -> Predicate:
        return UniversePredicate(self._account, _inputs(self._account, step.inputs))

    def empty(self, step: Empty) -> Predicate:
        return EmptyPredicate()

    def intersection(self, step: Intersection) -> None:
        return None

    def union(self, step: Union) -> None:
        return None

    def difference(self, step: Difference) -> None:
        return None

    def seen(self, step: SeenMatch) -> Predicate:
        return SeenPredicate(self._account, _inputs(self._account, step.inputs), step)

    def attribute(self, step: AttributeMatch) -> Predicate:
        fields = (field_name(FieldKind.ATTRIBUTE, workspace, step.key) for workspace in step.workspaces)
        return _field_predicate(self._account, tuple(fields), step.test)

    def identity(self, step: IdentityMatch) -> Predicate:
        return _field_predicate(self._account, (field_name(FieldKind.IDENTITY, step.type),), step.test)

    def user_id(self, step: UserIdMatch) -> Predicate:
        return UserIdPredicate(self._account.directory, step.test)

    def consent(self, step: ConsentMatch) -> Predicate:
        field = field_name(FieldKind.CONSENT, step.regulation, step.purpose)
        return _field_predicate(self._account, (field,), Equals(step.state.value))

    def bucket(self, step: BucketMatch) -> Predicate:
        return BucketPredicate(self._account, step)

    def event(self, step: EventMatch) -> Predicate:
        return _event_predicate(self._account, step)

    def sequence(self, step: SequenceMatch) -> Predicate:
        steps = tuple(_selection(self._account, selection) for selection in step.steps)
        return SequencePredicate(self._account, ResolvedSequence(steps=steps, within=step.within))


def _inputs(account: Account, names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(number for name in names if (number := account.inputs.find(name)) is not None)


def _field_predicate(account: Account, names: tuple[str, ...], test: ResolvedTest) -> Predicate:
    fields = tuple(number for name in names if (number := account.fields.find(name)) is not None)
    return FieldPredicate(account, fields, test) if fields else EmptyPredicate()


def _event_predicate(account: Account, step: EventMatch) -> Predicate:
    return AggregatePredicate(
        account,
        ResolvedEventMatch(
            selection=_selection(account, step.selection),
            aggregate=step.aggregate,
            of=_attribute(account, step.of),
            time_zone=step.time_zone,
            intervals=step.intervals,
        ),
    )


def _selection(account: Account, selection: EventSelection) -> ResolvedSelection:
    number = account.events.find(selection.name)
    return ResolvedSelection(
        inputs=_inputs(account, selection.inputs),
        name=None if not selection.name else NEVER if number is None else number,
        type=selection.type,
        time=selection.time,
        where=None if selection.where is None else _condition(account, selection.where),
    )


def _condition(account: Account, where: RowFilter) -> RowCondition:
    return mapped(where, lambda each: WhereAttribute(key=_attribute(account, each.key), test=each.test))


def _attribute(account: Account, name: str) -> int:
    number = account.event_attributes.find(name)
    return NEVER if number is None else number
