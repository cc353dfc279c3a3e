"""Validates criteria on events: conditions, windows, aggregates, sequences."""

from __future__ import annotations

from engine.criteria.faults import NOT_POSITIVE, Faults
from engine.criteria.model import (
    BetweenAgo,
    Calendar,
    Event,
    Last,
    Range,
    Sequence,
    Step,
    Where,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
    Window,
)
from engine.criteria.operators import check_number_test, check_test
from engine.criteria.zones import BadTimeZone, load_zone


def check_event(faults: Faults, path: str, event: Event, depth: int) -> None:
    """Checks an event criterion."""
    _check_selection(faults, path, event, depth)
    if event.window is not None:
        check_window(faults, f"{path}.window", event.window)
    _check_of(faults, path, event)
    if event.test is not None:
        check_number_test(faults, f"{path}.test", event.test)


def check_sequence(faults: Faults, path: str, sequence: Sequence, depth: int) -> None:
    """Checks a sequence."""
    steps_max = faults.limits.sequence_steps_max
    if not sequence.steps:
        faults.add(f"{path}.steps", "must not be empty")
    if len(sequence.steps) > steps_max:
        faults.add(f"{path}.steps", f"has {len(sequence.steps)} steps; at most {steps_max} are allowed")
    for index, step in enumerate(sequence.steps):
        step_path = f"{path}.steps[{index}]"
        if faults.enter(step_path, depth + 1):
            _check_selection(faults, step_path, step, depth + 1)
    if sequence.within is not None:
        faults.check_positive(f"{path}.within", sequence.within)
    if sequence.window is not None:
        check_window(faults, f"{path}.window", sequence.window)


def _check_selection(faults: Faults, path: str, selected: Event | Step, depth: int) -> None:
    faults.check_name(f"{path}.name", selected.name, required=False)
    faults.check_inputs(path, selected.inputs)
    if selected.where is not None:
        _check_where(faults, f"{path}.where", selected.where, depth + 1)


def _check_of(faults: Faults, path: str, event: Event) -> None:
    if not event.aggregate.is_of_attribute:
        if event.of:
            faults.add(f"{path}.of", f"must be empty: {event.aggregate.name} reads no attribute")
        return
    if not event.of:
        faults.add(f"{path}.of", f"is required: {event.aggregate.name} reads an attribute")
        return
    faults.check_name(f"{path}.of", event.of)


def _check_where(faults: Faults, path: str, where: Where, depth: int) -> None:
    if not faults.enter(path, depth):
        return
    match where:
        case WhereAll() | WhereAny():
            tag = "all_of" if isinstance(where, WhereAll) else "any_of"
            for index, condition in enumerate(where.conditions):
                _check_where(faults, f"{path}.{tag}.conditions[{index}]", condition, depth + 1)
        case WhereNot():
            _check_where(faults, f"{path}.not", where.condition, depth + 1)
        case WhereAttribute():
            faults.check_name(f"{path}.attribute.key", where.key)
            check_test(faults, f"{path}.attribute.test", where.test)


def check_window(faults: Faults, path: str, window: Window) -> None:
    """Checks a window."""
    match window:
        case Last():
            faults.check_positive(f"{path}.last", window.duration)
        case BetweenAgo():
            _check_between_ago(faults, f"{path}.between_ago", window)
        case Range():
            _check_range(faults, f"{path}.range", window)
        case Calendar():
            _check_calendar(faults, f"{path}.calendar", window)


def _check_between_ago(faults: Faults, path: str, window: BetweenAgo) -> None:
    if window.to < 0:
        faults.add(f"{path}.to", "must not be negative")
    if window.from_ <= 0:
        faults.add(f"{path}.from", NOT_POSITIVE)
    elif window.from_ <= window.to:
        faults.add(path, "is empty: from must be longer ago than to")


def _check_range(faults: Faults, path: str, window: Range) -> None:
    if window.start is not None:
        faults.check_instant(f"{path}.start", window.start)
    if window.end is not None:
        faults.check_instant(f"{path}.end", window.end)
    if window.start is not None and window.end is not None and window.start >= window.end:
        faults.add(path, "is empty: start must be before end")


def _check_calendar(faults: Faults, path: str, window: Calendar) -> None:
    units_max = faults.limits.calendar_units_max
    if not 1 <= window.count <= units_max:
        faults.add(f"{path}.count", f"must lie between 1 and {units_max}")
    if not 0 <= window.offset <= units_max:
        faults.add(f"{path}.offset", f"must lie between 0 and {units_max}")
    if window.time_zone:
        try:
            load_zone(window.time_zone)
        except BadTimeZone as error:
            faults.add(f"{path}.time_zone", str(error))
