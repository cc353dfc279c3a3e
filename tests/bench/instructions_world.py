"""The store over which instructions are counted: the same on every run, its secret seed included."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from engine import Engine
from engine.backends.local.backend import LocalBackend
from engine.criteria.model import (
    Aggregate,
    AnyOf,
    Compare,
    Criterion,
    Event,
    In,
    Last,
    UserAttribute,
)
from engine.event_columns import EventColumns
from engine.resources.records import Account, Input, Journey, Milestone, MilestoneKind, Workspace
from engine.values import MICROS_PER_DAY
from tests.bench import synthetic
from tests.bench.criteria import fill as fill_with_world

SCALE = synthetic.Scale(users=20_000, events=200_000)
SEED = 0x5EED_0F_57072E

QUESTIONS = (
    "attribute equals",
    "attribute in a dozen",
    "attribute number between",
    "identity contains",
    "identity matches a regex",
    "last seen within 3 days",
    "bucket",
    "any event in 30 days (sparse)",
    "count >= 3 in 30 days (dense)",
    "count >= 2 in 30 days (medium)",
    "count >= 10 of any name in 7 days",
    "sum in 30 days",
    "max in 30 days",
    "count >= 2 where equals",
    "count >= 2 in seven calendar days",
    "sequence of 3 (dense, dense, medium)",
)
"""Names of `tests.bench.questions.forms`."""

JOURNEY = f"{synthetic.ACCOUNT}/journeys/main"
DEEPEST = f"{JOURNEY}/milestones/level-2"
EVENTS_LATER = 1_000

_WINDOW = Last(duration=30 * MICROS_PER_DAY)
_LEVELS: tuple[Criterion, ...] = (
    UserAttribute(key="plan", test=In(("free", "basic", "plus"))),
    AnyOf(
        criteria=(
            Event(name="dense_0", window=_WINDOW, test=Compare("greater_or_equal", 2.0)),
            UserAttribute(key="score", test=Compare("greater_than", 900.0)),
        )
    ),
    Event(
        name="dense_1",
        window=_WINDOW,
        aggregate=Aggregate.SUM,
        of="amount",
        test=Compare("greater_or_equal", 250.0),
    ),
)


def fill(directory: Path) -> None:
    """A new store with the world and a journey of three levels."""
    with mock.patch("secrets.randbits", return_value=SEED):
        LocalBackend.open(directory).close()
    fill_with_world(directory, SCALE)
    engine = Engine(LocalBackend.open(directory), clock=lambda: synthetic.NOW)
    try:
        account, workspace, input_ = synthetic.INPUT.split("/")[1::2]
        engine.accounts.create_account(account, Account(name=""))
        engine.accounts.create_workspace(synthetic.ACCOUNT, workspace, Workspace(name=""))
        engine.accounts.create_input(synthetic.WORKSPACE, input_, Input(name=""))
        engine.journeys.create_journey(synthetic.ACCOUNT, "main", Journey(name=""))
        parent = ""
        for level, criteria in enumerate(_LEVELS):
            record = Milestone(
                name="", audience="", parent=parent, kind=MilestoneKind.CRITERIA, criteria=criteria
            )
            parent = engine.milestones.create_milestone(JOURNEY, f"level-{level}", record).record.name
    finally:
        engine.close()


def late_events(world: synthetic.World, turn: int) -> EventColumns:
    """Some of the events, to be taken in once more: they carry no ids."""
    return synthetic.event_columns(world.events, slice(turn * EVENTS_LATER, (turn + 1) * EVENTS_LATER))
