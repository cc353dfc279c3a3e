"""Criteria in words, for explanations of membership and plans."""

from __future__ import annotations

from engine.criteria.conditions import condition_in_words
from engine.criteria.model import (
    AllOf,
    AnyOf,
    Audience,
    BetweenAgo,
    Bucket,
    Calendar,
    Consent,
    Criterion,
    Event,
    Identity,
    Last,
    Not,
    Range,
    Sequence,
    Step,
    UserAttribute,
    Window,
)
from engine.criteria.ranges import TimeRange
from engine.criteria.visitor import CriterionVisitor
from engine.criteria.words import duration_in_words, number_in_words, quoted, range_in_words


def describe_criterion(criterion: Criterion) -> str:
    """One line about a node. Groups state the number of their parts, which have their own lines."""
    return _Description().visit(criterion, None)


class _Description(CriterionVisitor[None, str]):
    def all_of(self, criterion: AllOf, context: None) -> str:
        return _group(criterion.criteria, "all of", "everyone")

    def any_of(self, criterion: AnyOf, context: None) -> str:
        return _group(criterion.criteria, "any of", "no one")

    def not_(self, criterion: Not, context: None) -> str:
        return "not"

    def user_attribute(self, criterion: UserAttribute, context: None) -> str:
        return f"user attribute {quoted(criterion.key)} {criterion.test.describe()}"

    def event(self, criterion: Event, context: None) -> str:
        aggregate = criterion.aggregate.value
        what = f"{aggregate} of {quoted(criterion.of)} over" if criterion.of else f"{aggregate} of"
        test = "> 0" if criterion.test is None else criterion.test.describe()
        return f"{what} {describe_selection(criterion)}{_in_window(criterion.window)} {test}"

    def sequence(self, criterion: Sequence, context: None) -> str:
        steps = ", then ".join(map(describe_selection, criterion.steps))
        within = "" if criterion.within is None else f", all within {duration_in_words(criterion.within)}"
        return f"{steps}{within}{_in_window(criterion.window)}"

    def audience(self, criterion: Audience, context: None) -> str:
        return f"in audience {criterion.name}"

    def consent(self, criterion: Consent, context: None) -> str:
        where = f"{quoted(criterion.regulation)} for {quoted(criterion.purpose)}"
        return f"consent under {where} is {criterion.state.value}"

    def identity(self, criterion: Identity, context: None) -> str:
        return f"identity {quoted(criterion.type)} {criterion.test.describe()}"

    def bucket(self, criterion: Bucket, context: None) -> str:
        low, high = number_in_words(criterion.from_percent), number_in_words(criterion.to_percent)
        return f"bucket of salt {quoted(criterion.salt)} from {low} % to below {high} %"


def _group(parts: tuple[Criterion, ...], several: str, none: str) -> str:
    return f"{several} {len(parts)}" if parts else none


def describe_selection(selected: Event | Step) -> str:
    """Which events: name, type, condition, inputs."""
    parts = [f"event {quoted(selected.name)}" if selected.name else "any event"]
    if selected.type is not None:
        parts.append(f"of type {selected.type.name}")
    if selected.where is not None:
        parts.append(f"where {condition_in_words(selected.where)}")
    if selected.inputs:
        parts.append(f"through {', '.join(selected.inputs)}")
    return " ".join(parts)


def _in_window(window: Window | None) -> str:
    match window:
        case None:
            return ""
        case Last():
            return f" in the last {duration_in_words(window.duration)}"
        case BetweenAgo():
            return f" between {duration_in_words(window.from_)} and {duration_in_words(window.to)} ago"
        case Range():
            return f" {range_in_words(TimeRange(window.start, window.end))}"
        case Calendar():
            zone = f" in {window.time_zone}" if window.time_zone else ""
            return (
                f" in {window.count} calendar {window.unit.value}(s), {window.offset} before this one{zone}"
            )
