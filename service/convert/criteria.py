"""Criteria in both directions: the recursive message and the engine's nodes.

Every structural fault is reported together, with the path as in documents, for example
`milestone.criteria.all_of.criteria[1].event.window`. The engine validates the meaning of a well-formed
criterion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engine.criteria.model import (
    Aggregate,
    AllOf,
    AnyOf,
    Audience,
    Bucket,
    Consent,
    ConsentState,
    Criterion,
    Event,
    EventType,
    Identity,
    Not,
    Sequence,
    Step,
    UserAttribute,
    Where,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
)
from engine.criteria.visitor import CriterionVisitor
from engine.limits import DEFAULT_LIMITS, Limits
from milepost.v1 import criteria_pb2, data_pb2
from milepost.written_form import written_name
from service.convert.criteria_limits import check_criteria_limits
from service.convert.enums import members_of, numbers_of
from service.convert.faults import ShapeFaults
from service.convert.times import duration, duration_message
from service.convert.value_tests import number_test, number_test_message, value_test, value_test_message
from service.convert.windows import window_message, window_of

INVALID_CRITERIA = "INVALID_CRITERIA"
NO_NODE = "must have exactly one node"
NO_CONDITION = "must have exactly one condition"
UNKNOWN_TYPE = "is not an event type"
UNKNOWN_AGGREGATE = "is not an aggregate"
NO_CONSENT_STATE = "must be GIVEN or DENIED"

_AGGREGATES = {
    criteria_pb2.AGGREGATE_UNSPECIFIED: Aggregate.COUNT,
    **members_of(criteria_pb2.Aggregate, Aggregate),
}
_AGGREGATE_MESSAGES = numbers_of(criteria_pb2.Aggregate, Aggregate)
CONSENT_STATES = members_of(data_pb2.ConsentState, ConsentState)
CONSENT_STATE_MESSAGES = numbers_of(data_pb2.ConsentState, ConsentState)
_EVENT_TYPES = {int(member): member for member in EventType}
_EVENT_TYPE_MESSAGES = numbers_of(data_pb2.EventType, EventType)


# --- message → node -----------------------------------------------------------------------------------------


def criterion_of(
    message: criteria_pb2.Criteria, path: str = "criteria", limits: Limits = DEFAULT_LIMITS
) -> Criterion:
    """The criterion in the message. Raises InvalidInput with reason INVALID_CRITERIA and every fault; beyond
    a limit of criteria, before anything is built.
    """
    faults = ShapeFaults()
    check_criteria_limits(message, path, limits, faults)
    faults.raise_if_any(reason=INVALID_CRITERIA)
    criterion = _criterion(message, path, faults)
    faults.raise_if_any(reason=INVALID_CRITERIA)
    return criterion


def _criterion(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    field = message.WhichOneof("node")
    if field is None:
        faults.add(path, NO_NODE)
        return AllOf()
    name = written_name(message.DESCRIPTOR.fields_by_name[field])
    return _NODE_READERS[field](message, f"{path}.{name}", faults)


def _children(
    messages: Iterable[criteria_pb2.Criteria], path: str, faults: ShapeFaults
) -> tuple[Criterion, ...]:
    return tuple(_criterion(child, f"{path}.criteria[{i}]", faults) for i, child in enumerate(messages))


def _all_of(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    return AllOf(label=message.label, criteria=_children(message.all_of.criteria, path, faults))


def _any_of(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    return AnyOf(label=message.label, criteria=_children(message.any_of.criteria, path, faults))


def _not(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    return Not(label=message.label, criterion=_criterion(message.negation, path, faults))


def _user_attribute(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    node = message.user_attribute
    return UserAttribute(
        label=message.label, key=node.key, test=value_test(node.test, f"{path}.test", faults)
    )


def _event(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    node = message.event
    aggregate = _AGGREGATES.get(node.aggregate)
    if aggregate is None:
        faults.add(f"{path}.aggregate", UNKNOWN_AGGREGATE)
        aggregate = Aggregate.COUNT
    return Event(
        label=message.label,
        name=node.name,
        type=_event_type(node.event_type, path, faults),
        where=_where(node.condition, f"{path}.where", faults) if node.HasField("condition") else None,
        inputs=tuple(node.inputs),
        window=window_of(node.window, f"{path}.window", faults) if node.HasField("window") else None,
        aggregate=aggregate,
        of=node.of,
        test=number_test(node.test, f"{path}.test", faults) if node.HasField("test") else None,
    )


def _sequence(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    node = message.sequence
    within = duration(node.within, f"{path}.within", faults) if node.HasField("within") else None
    return Sequence(
        label=message.label,
        steps=tuple(_step(step, f"{path}.steps[{i}]", faults) for i, step in enumerate(node.steps)),
        within=within,
        window=window_of(node.window, f"{path}.window", faults) if node.HasField("window") else None,
    )


def _step(message: criteria_pb2.SequenceStep, path: str, faults: ShapeFaults) -> Step:
    return Step(
        name=message.name,
        type=_event_type(message.event_type, path, faults),
        where=_where(message.condition, f"{path}.where", faults) if message.HasField("condition") else None,
        inputs=tuple(message.inputs),
    )


def _audience(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    return Audience(label=message.label, name=message.audience.name)


def _consent(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    node = message.consent
    state = CONSENT_STATES.get(node.state)
    if state is None:
        faults.add(f"{path}.state", NO_CONSENT_STATE)
        state = ConsentState.GIVEN
    return Consent(label=message.label, regulation=node.regulation, purpose=node.purpose, state=state)


def _identity(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    node = message.identity
    return Identity(
        label=message.label, type=node.identity_type, test=value_test(node.test, f"{path}.test", faults)
    )


def _bucket(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    node = message.bucket
    return Bucket(
        label=message.label, salt=node.salt, from_percent=node.from_percent, to_percent=node.to_percent
    )


_NODE_READERS: dict[str, Callable[[criteria_pb2.Criteria, str, ShapeFaults], Criterion]] = {
    "all_of": _all_of,
    "any_of": _any_of,
    "negation": _not,
    "user_attribute": _user_attribute,
    "event": _event,
    "sequence": _sequence,
    "audience": _audience,
    "consent": _consent,
    "identity": _identity,
    "bucket": _bucket,
}


def _event_type(number: int, path: str, faults: ShapeFaults) -> EventType | None:
    if number and number not in _EVENT_TYPES:
        faults.add(f"{path}.type", UNKNOWN_TYPE)
    return _EVENT_TYPES.get(number)


def _where(message: criteria_pb2.EventCondition, path: str, faults: ShapeFaults) -> Where:
    match message.WhichOneof("condition"):
        case "all_of":
            return WhereAll(conditions=_conditions(message.all_of.conditions, f"{path}.all_of", faults))
        case "any_of":
            return WhereAny(conditions=_conditions(message.any_of.conditions, f"{path}.any_of", faults))
        case "negation":
            return WhereNot(condition=_where(message.negation, f"{path}.not", faults))
        case "attribute":
            test = value_test(message.attribute.test, f"{path}.attribute.test", faults)
            return WhereAttribute(key=message.attribute.key, test=test)
    faults.add(path, NO_CONDITION)
    return WhereAll()


def _conditions(
    messages: Iterable[criteria_pb2.EventCondition], path: str, faults: ShapeFaults
) -> tuple[Where, ...]:
    return tuple(_where(child, f"{path}.conditions[{i}]", faults) for i, child in enumerate(messages))


# --- node → message -----------------------------------------------------------------------------------------


def criteria_message(criterion: Criterion) -> criteria_pb2.Criteria:
    """The message for a criterion."""
    message = criteria_pb2.Criteria()
    _FILLING.fill(message, criterion)
    return message


class _Filling(CriterionVisitor[criteria_pb2.Criteria, None]):
    """Fills the message of a node."""

    def fill(self, message: criteria_pb2.Criteria, criterion: Criterion) -> None:
        message.label = criterion.label
        self.visit(criterion, message)

    def all_of(self, criterion: AllOf, context: criteria_pb2.Criteria) -> None:
        self._fill_children(context.all_of, criterion.criteria)

    def any_of(self, criterion: AnyOf, context: criteria_pb2.Criteria) -> None:
        self._fill_children(context.any_of, criterion.criteria)

    def _fill_children(self, message: criteria_pb2.CriteriaList, children: Iterable[Criterion]) -> None:
        message.SetInParent()
        for child in children:
            self.fill(message.criteria.add(), child)

    def not_(self, criterion: Not, context: criteria_pb2.Criteria) -> None:
        self.fill(context.negation, criterion.criterion)

    def user_attribute(self, criterion: UserAttribute, context: criteria_pb2.Criteria) -> None:
        context.user_attribute.key = criterion.key
        context.user_attribute.test.CopyFrom(value_test_message(criterion.test))

    def event(self, criterion: Event, context: criteria_pb2.Criteria) -> None:
        _fill_event(context.event, criterion)

    def sequence(self, criterion: Sequence, context: criteria_pb2.Criteria) -> None:
        _fill_sequence(context.sequence, criterion)

    def audience(self, criterion: Audience, context: criteria_pb2.Criteria) -> None:
        context.audience.SetInParent()
        context.audience.name = criterion.name

    def consent(self, criterion: Consent, context: criteria_pb2.Criteria) -> None:
        context.consent.regulation = criterion.regulation
        context.consent.purpose = criterion.purpose
        context.consent.state = CONSENT_STATE_MESSAGES[criterion.state]

    def identity(self, criterion: Identity, context: criteria_pb2.Criteria) -> None:
        context.identity.identity_type = criterion.type
        context.identity.test.CopyFrom(value_test_message(criterion.test))

    def bucket(self, criterion: Bucket, context: criteria_pb2.Criteria) -> None:
        context.bucket.SetInParent()
        context.bucket.salt = criterion.salt
        context.bucket.from_percent = criterion.from_percent
        context.bucket.to_percent = criterion.to_percent


_FILLING = _Filling()


def _fill_event(message: criteria_pb2.EventCriterion, event: Event) -> None:
    message.SetInParent()
    _fill_selection(message, event)
    # An unset aggregate means COUNT; leaving it out keeps the JSON form short.
    if event.aggregate is not Aggregate.COUNT:
        message.aggregate = _AGGREGATE_MESSAGES[event.aggregate]
    message.of = event.of
    if event.window is not None:
        message.window.CopyFrom(window_message(event.window))
    if event.test is not None:
        message.test.CopyFrom(number_test_message(event.test))


def _fill_sequence(message: criteria_pb2.SequenceCriterion, sequence: Sequence) -> None:
    message.SetInParent()
    for step in sequence.steps:
        _fill_selection(message.steps.add(), step)
    if sequence.within is not None:
        message.within.CopyFrom(duration_message(sequence.within))
    if sequence.window is not None:
        message.window.CopyFrom(window_message(sequence.window))


def _fill_selection(
    message: criteria_pb2.EventCriterion | criteria_pb2.SequenceStep, selected: Event | Step
) -> None:
    message.name = selected.name
    if selected.type is not None:
        message.event_type = _EVENT_TYPE_MESSAGES[selected.type]
    message.inputs.extend(selected.inputs)
    if selected.where is not None:
        _fill_where(message.condition, selected.where)


def _fill_where(message: criteria_pb2.EventCondition, where: Where) -> None:
    match where:
        case WhereAll() | WhereAny():
            children = message.all_of if isinstance(where, WhereAll) else message.any_of
            children.SetInParent()
            for child in where.conditions:
                _fill_where(children.conditions.add(), child)
        case WhereNot():
            _fill_where(message.negation, where.condition)
        case WhereAttribute():
            message.attribute.key = where.key
            message.attribute.test.CopyFrom(value_test_message(where.test))
