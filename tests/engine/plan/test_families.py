"""Steps of one template at different instants are one family; steps of different windows are not."""

from __future__ import annotations

import pytest

from engine.criteria.conditions import WhereAttribute
from engine.criteria.ranges import TimeRange
from engine.plan.families import family_of
from engine.plan.model import (
    SOME_EVENT,
    AttributeMatch,
    EventMatch,
    EventSelection,
    InstantRange,
    SeenMatch,
    SequenceMatch,
    Step,
    Universe,
)
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR

DAY = MICROS_PER_DAY
LATER = (1, MICROS_PER_HOUR, 3 * DAY, -5 * DAY)


def since(instant: int, length: int = 30 * DAY) -> EventSelection:
    return EventSelection(inputs=("web",), name="buy", time=TimeRange(instant - length, instant))


def recent(instant: int) -> InstantRange:
    return InstantRange((TimeRange(None, instant - DAY), TimeRange(instant, instant + DAY)))


def steps(instant: int) -> list[Step]:
    """A step of each kind that time moves."""
    where = WhereAttribute(key="until", test=recent(instant))
    return [
        EventMatch(selection=since(instant), intervals=SOME_EVENT),
        EventMatch(selection=since(instant, 7 * DAY), intervals=SOME_EVENT),
        EventMatch(selection=EventSelection(inputs=("web",), name="buy", where=where), intervals=SOME_EVENT),
        SequenceMatch(steps=(since(instant), since(instant, DAY))),
        SeenMatch(inputs=("web",), last=True, test=recent(instant)),
        AttributeMatch(workspaces=("shop",), key="born", test=recent(instant)),
    ]


@pytest.mark.parametrize("later", LATER)
def test_time_that_passes_leaves_a_step_in_its_family(later: int) -> None:
    families = [family_of(step) for step in steps(20_000 * DAY)]
    assert families == [family_of(step) for step in steps(20_000 * DAY + later)]
    assert len(set(families)) == len(families)
    assert all(families)


def test_a_step_without_an_instant_has_no_family() -> None:
    assert not family_of(Universe(inputs=("web",)))
    assert not family_of(EventMatch(selection=EventSelection(inputs=("web",)), intervals=SOME_EVENT))
