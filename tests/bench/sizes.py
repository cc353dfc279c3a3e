"""The sizes table: estimating a milestone of ten criteria at the end of a journey five deep.

Every split has four siblings and the path always takes the last one, so all twenty milestones take part.
Three rounds of default estimates: the first calls to a store just opened; one call after another, each at a
later instant; and calls at one instant with one criterion changed each time. Times are the engine's own. The
computed steps of a changed criterion are read from the explained plan.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from engine import Engine
from engine.audiences.model import AudienceExplanation, Draft, Estimate, SavedTarget, SizeState, Target
from engine.criteria.model import (
    Aggregate,
    AllOf,
    AnyOf,
    Bucket,
    Compare,
    CompareOp,
    Criterion,
    Equals,
    Event,
    In,
    Last,
    Not,
    Text,
    UserAttribute,
    WithinLast,
)
from engine.errors import NotFound
from engine.resources.records import Milestone, MilestoneKind
from engine.values import MICROS_PER_DAY, MICROS_PER_SECOND, Micros
from tests.bench.figures import number, quantile
from tests.bench.marketing_world import EVENT_NAMES, JOURNEY, NOW, Scale, open_engine

CALLS = 200
SCORE_AT_LEAST = 100
LAST_ID = "last"
COMPUTED = ("index", "column", "scan")
"""Sources of a step that was computed, not cached."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """`keep` is a directory that stores are kept in for later runs; None = a temporary one."""

    scale: Scale
    keep: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Round:
    """Consecutive estimates, and their time in the engine."""

    what: str
    estimates: tuple[Estimate, ...]

    def milliseconds(self, share: float) -> float:
        return quantile(sorted(e.elapsed for e in self.estimates), share) / 1_000


@dataclass(frozen=True, kw_only=True)
class Changed:
    """How the predicate steps of a plan with one changed criterion were answered, by source."""

    sources: Counter[str]

    @property
    def computed(self) -> int:
        return sum(self.sources[source] for source in COMPUTED)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    rounds: tuple[Round, ...]
    changed: Changed


def run(options: Options, console: Console) -> Outcome:
    """Fills the store if needed, runs the questions, and prints the table."""
    with _directory(options) as directory:
        engine = open_engine(directory, options.scale)
        try:
            milestone = journey(engine)
            outcome = Outcome(rounds=measure(engine, milestone), changed=explain_change(engine, milestone))
        finally:
            engine.close()
    console.print(_table(options.scale, outcome))
    cached = outcome.changed.sources["cached"]
    computed = outcome.changed.computed
    console.print(f"one criterion changed: {computed} steps computed, {cached} from the cache")
    return outcome


@contextmanager
def _directory(options: Options) -> Iterator[Path]:
    if options.keep is not None:
        yield options.keep
    else:
        with tempfile.TemporaryDirectory(prefix="milepost-sizes-") as temporary:
            yield Path(temporary)


# --- the journey --------------------------------------------------------------------------------------------


def journey(engine: Engine) -> Milestone:
    """The last milestone of the journey, which is created if missing."""
    try:
        return engine.milestones.get_milestone(f"{JOURNEY}/milestones/{LAST_ID}")
    except NotFound:
        parent = ""
        for level, (*siblings, way_down) in enumerate(_splits(), 1):
            for at, criteria in enumerate(siblings, 1):
                _add(engine, f"level-{level}-{at}", parent, criteria)
            last = level == len(_splits())
            made = _add(engine, LAST_ID if last else f"level-{level}-4", parent, way_down)
            parent = made.name
        return made


def _add(engine: Engine, milestone_id: str, parent: str, criteria: Criterion | None) -> Milestone:
    kind = MilestoneKind.REMAINING_USERS if criteria is None else MilestoneKind.CRITERIA
    record = Milestone(name="", audience="", parent=parent, kind=kind, criteria=criteria)
    return engine.milestones.create_milestone(JOURNEY, milestone_id, record).record


def _splits() -> tuple[tuple[Criterion | None, ...], ...]:
    """Four siblings per level, the path through the last; None = remaining users."""
    return (
        (_plan("enterprise"), _score("greater_than", 950), _country("AK"), AnyOf(criteria=(_signup(900),))),
        (_did("unsubscribe"), _did("support", at_least=2), _country("AL"), None),
        (
            AllOf(criteria=(_plan("free"), _score("less_than", 20))),
            _did("purchase", days=2),
            _bucket("hold-out", 0, 5),
            Not(criterion=_country("LS")),
        ),
        (_did("visit", days=1), _country("AM"), _score("greater_than", 940), None),
        (_did("open", days=1), _country("AN"), _bucket("test", 0, 10), ten_criteria(SCORE_AT_LEAST)),
    )


def ten_criteria(score_at_least: int) -> Criterion:
    """Ten labelled criteria: attributes, events and buckets."""
    return AllOf(
        criteria=(
            _labelled("plans", UserAttribute(key="plan", test=In(values=("free", "basic", "plus")))),
            _labelled("score", _score("greater_or_equal", score_at_least)),
            _labelled("not too keen", _score("less_than", 900)),
            _labelled("countries", Not(criterion=_country("B"))),
            _labelled("signed up", _signup(700)),
            AnyOf(
                criteria=(
                    _labelled("visited", _did("visit", days=7)),
                    _labelled("spent", _spent(20)),
                    _labelled("opened twice", _did("open", days=14, at_least=2)),
                    _labelled("by chance", _bucket("extra", 0, 50)),
                )
            ),
            _labelled("not annoyed", Not(criterion=_did("support", days=7))),
        )
    )


def _labelled(label: str, criterion: Criterion) -> Criterion:
    return msgspec.structs.replace(criterion, label=label)


def _plan(plan: str) -> Criterion:
    return UserAttribute(key="plan", test=Equals(plan))


def _score(op: CompareOp, operand: int) -> Criterion:
    return UserAttribute(key="score", test=Compare(op, float(operand)))


def _country(prefix: str) -> Criterion:
    return UserAttribute(key="country", test=Text("starts_with", prefix))


def _signup(days: int) -> Criterion:
    return UserAttribute(key="signup", test=WithinLast(days * MICROS_PER_DAY))


def _did(name: str, *, days: int = 0, at_least: int = 1) -> Criterion:
    assert name in EVENT_NAMES
    window = Last(duration=days * MICROS_PER_DAY) if days else None
    return Event(name=name, window=window, test=Compare("greater_or_equal", float(at_least)))


def _spent(amount: int) -> Criterion:
    window = Last(duration=30 * MICROS_PER_DAY)
    test = Compare("greater_than", float(amount))
    return Event(name="purchase", window=window, aggregate=Aggregate.SUM, of="amount", test=test)


def _bucket(salt: str, low: int, high: int) -> Criterion:
    return Bucket(salt=salt, from_percent=float(low), to_percent=float(high))


# --- asking -------------------------------------------------------------------------------------------------


def measure(engine: Engine, milestone: Milestone) -> tuple[Round, ...]:
    """The rounds in order: the first calls, later instants, one criterion changed."""
    saved = SavedTarget(milestone.name)
    first = Round(what="first call", estimates=(_ask(engine, saved, 0),))
    second = Round(what="second call, a second later", estimates=(_ask(engine, saved, 1),))
    later = tuple(_ask(engine, saved, 2 + call) for call in range(CALLS))
    instant = 2 + CALLS
    _ask(engine, saved, instant)
    changed = tuple(_ask(engine, _draft(milestone, 101 + call), instant) for call in range(CALLS))
    return (
        first,
        second,
        Round(what="each a second later", estimates=later),
        Round(what="one criterion changed", estimates=changed),
    )


def _ask(engine: Engine, target: Target, second: int) -> Estimate:
    return engine.sizes.estimate(target, as_of=_instant(second))


def _instant(second: int) -> Micros:
    return NOW + second * MICROS_PER_SECOND


def _draft(milestone: Milestone, score_at_least: int) -> Draft:
    return Draft(journey=JOURNEY, criteria=ten_criteria(score_at_least), replaces=milestone.name)


def explain_change(engine: Engine, milestone: Milestone) -> Changed:
    """The steps computed to explain the milestone with one changed criterion right after explaining it."""
    engine.members.explain_audience(SavedTarget(milestone.name), as_of=NOW)
    changed = _draft(milestone, SCORE_AT_LEAST + CALLS + 1)
    return Changed(sources=sources(engine.members.explain_audience(changed, as_of=NOW)))


def sources(explanation: AudienceExplanation) -> Counter[str]:
    """The sources of the steps without operands."""
    return Counter(step.source for step in explanation.steps if not step.operands)


# --- showing ------------------------------------------------------------------------------------------------


def _table(scale: Scale, outcome: Outcome) -> Table:
    table = Table(
        box=box.SIMPLE,
        title=f"Estimates of a milestone over {scale.users:,} users and {scale.events:,} events (ms)",
    )
    table.add_column("calls")
    for heading in ("state", "size", "population", "read", "p50", "p99"):
        table.add_column(heading, justify="right")
    for measured in outcome.rounds:
        last = measured.estimates[-1]
        states = {estimate.size.state for estimate in measured.estimates}
        table.add_row(
            measured.what,
            "/".join(sorted(states)),
            _size(last),
            f"{last.population:,}",
            f"{last.size.sampled_fraction:.3f}",
            number(measured.milliseconds(0.5)),
            number(measured.milliseconds(0.99)),
        )
    return table


def _size(estimate: Estimate) -> str:
    size = estimate.size
    if size.state is SizeState.EXACT:
        return f"{size.users:,}"
    return f"{size.users:,} ({size.lower:,} to {size.upper:,})"
