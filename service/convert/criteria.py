"""Criteria, both ways: the recursive message and the engine's nodes.

Every fault in shape is named at once, with the path as in the proto messages, for example
`milestone.criteria.all_of.criteria[1].event.window`. What a well-shaped criterion means, and whether it is
sound, is the engine's to say.
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
from milepost.v1 import criteria_pb2, data_pb2
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
    criteria_pb2.AGGREGATE_COUNT: Aggregate.COUNT,
    criteria_pb2.AGGREGATE_DISTINCT_DAYS: Aggregate.DISTINCT_DAYS,
    criteria_pb2.AGGREGATE_SUM: Aggregate.SUM,
    criteria_pb2.AGGREGATE_AVERAGE: Aggregate.AVERAGE,
    criteria_pb2.AGGREGATE_MIN: Aggregate.MIN,
    criteria_pb2.AGGREGATE_MAX: Aggregate.MAX,
    criteria_pb2.AGGREGATE_DISTINCT: Aggregate.DISTINCT,
    criteria_pb2.AGGREGATE_FIRST: Aggregate.FIRST,
    criteria_pb2.AGGREGATE_LAST: Aggregate.LAST,
}
_AGGREGATE_MESSAGES = {aggregate: message for message, aggregate in _AGGREGATES.items()}
CONSENT_STATES = {
    data_pb2.CONSENT_STATE_GIVEN: ConsentState.GIVEN,
    data_pb2.CONSENT_STATE_DENIED: ConsentState.DENIED,
}
CONSENT_STATE_MESSAGES = {state: message for message, state in CONSENT_STATES.items()}
_EVENT_TYPES = {int(member): member for member in EventType}
_EVENT_TYPE_MESSAGES = {
    EventType.CUSTOM: data_pb2.EVENT_TYPE_CUSTOM,
    EventType.SCREEN_VIEW: data_pb2.EVENT_TYPE_SCREEN_VIEW,
    EventType.COMMERCE: data_pb2.EVENT_TYPE_COMMERCE,
    EventType.SESSION: data_pb2.EVENT_TYPE_SESSION,
    EventType.LIFECYCLE: data_pb2.EVENT_TYPE_LIFECYCLE,
}


# --- message → node -----------------------------------------------------------------------------------------


def criterion_of(message: criteria_pb2.Criteria, path: str = "criteria") -> Criterion:
    """The criterion in the message. Raises InvalidInput with reason INVALID_CRITERIA and every fault."""
    faults = ShapeFaults()
    criterion = _criterion(message, path, faults)
    faults.raise_if_any(reason=INVALID_CRITERIA)
    return criterion


def _criterion(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    field = message.WhichOneof("node")
    if field is None:
        faults.add(path, NO_NODE)
        return AllOf()
    return _NODE_READERS[field](message, f"{path}.{field}", faults)


def _children(
    messages: Iterable[criteria_pb2.Criteria], path: str, faults: ShapeFaults
) -> tuple[Criterion, ...]:
    return tuple(_criterion(child, f"{path}.criteria[{i}]", faults) for i, child in enumerate(messages))


def _all_of(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    return AllOf(label=message.label, criteria=_children(message.all_of.criteria, path, faults))


def _any_of(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    return AnyOf(label=message.label, criteria=_children(message.any_of.criteria, path, faults))


def _not(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    return Not(label=message.label, criterion=_criterion(getattr(message, "not"), path, faults))


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
        type=_event_type(node.type, path, faults),
        where=_where(node.where, f"{path}.where", faults) if node.HasField("where") else None,
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
        type=_event_type(message.type, path, faults),
        where=_where(message.where, f"{path}.where", faults) if message.HasField("where") else None,
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
    return Identity(label=message.label, type=node.type, test=value_test(node.test, f"{path}.test", faults))


def _bucket(message: criteria_pb2.Criteria, path: str, faults: ShapeFaults) -> Criterion:
    node = message.bucket
    return Bucket(
        label=message.label, salt=node.salt, from_percent=node.from_percent, to_percent=node.to_percent
    )


_NODE_READERS: dict[str, Callable[[criteria_pb2.Criteria, str, ShapeFaults], Criterion]] = {
    "all_of": _all_of,
    "any_of": _any_of,
    "not": _not,
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
        case "not":
            return WhereNot(condition=_where(getattr(message, "not"), f"{path}.not", faults))
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
    _fill(message, criterion)
    return message


def _fill(message: criteria_pb2.Criteria, criterion: Criterion) -> None:
    message.label = criterion.label
    match criterion:
        case AllOf() | AnyOf():
            children = message.all_of if isinstance(criterion, AllOf) else message.any_of
            children.SetInParent()
            for child in criterion.criteria:
                _fill(children.criteria.add(), child)
        case Not():
            _fill(getattr(message, "not"), criterion.criterion)
        case UserAttribute():
            message.user_attribute.key = criterion.key
            message.user_attribute.test.CopyFrom(value_test_message(criterion.test))
        case Event():
            _fill_event(message.event, criterion)
        case Sequence():
            _fill_sequence(message.sequence, criterion)
        case Audience():
            message.audience.SetInParent()
            message.audience.name = criterion.name
        case Consent():
            message.consent.regulation = criterion.regulation
            message.consent.purpose = criterion.purpose
            message.consent.state = CONSENT_STATE_MESSAGES[criterion.state]
        case Identity():
            message.identity.type = criterion.type
            message.identity.test.CopyFrom(value_test_message(criterion.test))
        case Bucket():
            message.bucket.SetInParent()
            message.bucket.salt = criterion.salt
            message.bucket.from_percent = criterion.from_percent
            message.bucket.to_percent = criterion.to_percent


def _fill_event(message: criteria_pb2.EventCriterion, event: Event) -> None:
    message.SetInParent()
    _fill_selection(message, event)
    # COUNT is what an unset aggregate means; leaving it out keeps the JSON form as a person would write it.
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
        message.type = _EVENT_TYPE_MESSAGES[selected.type]
    message.inputs.extend(selected.inputs)
    if selected.where is not None:
        _fill_where(message.where, selected.where)


def _fill_where(message: criteria_pb2.EventCondition, where: Where) -> None:
    match where:
        case WhereAll() | WhereAny():
            children = message.all_of if isinstance(where, WhereAll) else message.any_of
            children.SetInParent()
            for child in where.conditions:
                _fill_where(children.conditions.add(), child)
        case WhereNot():
            _fill_where(getattr(message, "not"), where.condition)
        case WhereAttribute():
            message.attribute.key = where.key
            message.attribute.test.CopyFrom(value_test_message(where.test))
