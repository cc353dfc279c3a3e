"""The intervals table: how often the true size lies inside the 95 % interval.

Random criteria over a generated world are counted over everyone and estimated from some of the partitions: a
random set of random size, and the first partitions in the store's own order, which the service reads.
Criteria that match less than 0.01 % or more than 99 % of the users are replaced.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from engine.audiences.estimate import LEVELS_PARTITIONS
from engine.audiences.model import SizeState
from engine.audiences.sampling import HITS_MIN, design_effects, estimated_size
from engine.audiences.targets import with_universe_root
from engine.backends.base import Backend, Count
from engine.criteria.model import (
    Aggregate,
    AllOf,
    AnyOf,
    Between,
    Bucket,
    Compare,
    Criterion,
    Event,
    In,
    Last,
    Not,
    UserAttribute,
    WithinLast,
)
from engine.plan.compile import compile_criterion
from engine.plan.model import Plan
from engine.plan.tree import Account, JourneyTree
from engine.values import MICROS_PER_DAY, PARTITION_COUNT
from tests.bench import sample_world
from tests.bench.marketing_world import (
    ACCOUNT,
    AMOUNT_CENTS_MAX,
    COUNTRIES,
    EVENT_DAYS,
    EVENT_NAMES,
    INPUT,
    NOW,
    PLANS,
    SCORE_MAX,
    SIGNUP_DAYS,
    Scale,
    open_engine,
)

SEED = 20_261_123
SHARE_MIN = 0.000_1
SHARE_MAX = 0.99
SALTS = ("north", "south", "east", "west")
CLASSES = (0.001, 0.01, 0.1, 0.5, 1.0)
"""Upper ends of the classes of sizes, as shares of the users."""
OWN_ORDER = "the store's own"
RANDOM_ORDER = "random"
ALL_SIZES = "all"


@dataclass(frozen=True, kw_only=True)
class Options:
    """`scale` is that of the generated world; with `copies` of the sample's households the sample is the
    world instead. `keep` is a directory that stores are kept in for later runs; None = a temporary one.
    """

    scale: Scale
    criteria: int
    keep: Path | None = None
    copies: int = 0


@dataclass(frozen=True, kw_only=True)
class World:
    """A filled store, and random criteria over an account's inputs."""

    backend: Backend
    account: str
    inputs: tuple[str, ...]
    predicate: Callable[[np.random.Generator], Criterion]


@dataclass(kw_only=True)
class Tally:
    """Estimates of one kind, and their outcomes."""

    estimates: int = 0
    inside: int = 0
    too_small: int = 0

    @property
    def coverage(self) -> float:
        return self.inside / self.estimates


@dataclass(kw_only=True)
class Outcome:
    """Tallies by choice of partitions and class of size; `misnamed` estimates have a state that contradicts
    the hits.
    """

    tallies: Mapping[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    misnamed: int = 0


def run(options: Options, console: Console) -> Outcome:
    """Fills the store if needed, runs the questions, and prints the table."""
    with _directory(options) as directory:
        world = _sample(directory, options.copies) if options.copies else _drawn(directory, options.scale)
        try:
            outcome = measure(world, options.criteria)
            population = world.backend.universe_size(world.account, world.inputs)
        finally:
            world.backend.close()
    console.print(_table(options, outcome, population))
    return outcome


def _drawn(directory: Path, scale: Scale) -> World:
    backend = open_engine(directory, scale).backend
    return World(backend=backend, account=ACCOUNT, inputs=(INPUT,), predicate=marketing_predicate)


def _sample(directory: Path, copies: int) -> World:
    backend, asked = sample_world.open_backend(directory, copies)
    return World(
        backend=backend,
        account=sample_world.ACCOUNT,
        inputs=tuple(sorted(sample_world.INPUTS)),
        predicate=asked.predicate,
    )


@contextmanager
def _directory(options: Options) -> Iterator[Path]:
    if options.keep is not None:
        yield options.keep
    else:
        with tempfile.TemporaryDirectory(prefix="milepost-intervals-") as temporary:
            yield Path(temporary)


# --- asking -------------------------------------------------------------------------------------------------


def measure(world: World, criteria: int) -> Outcome:
    """Criteria, each estimated from both choices of partitions."""
    backend = world.backend
    random = np.random.default_rng(SEED)
    outcome = Outcome()
    asked = 0
    while asked < criteria:
        plan = _plan(world, random_criterion(random, world.predicate))
        size, population = backend.execute(plan, Count()).sizes
        if not SHARE_MIN <= size / population <= SHARE_MAX:
            continue
        asked += 1
        own = backend.sample_partitions(int(random.choice(LEVELS_PARTITIONS[:-1])))
        chosen = random.choice(PARTITION_COUNT, int(random.integers(8, PARTITION_COUNT)), replace=False)
        for choice, partitions in ((OWN_ORDER, own), (RANDOM_ORDER, tuple(chosen.tolist()))):
            _judge(backend, plan, (size, population), partitions, choice, outcome)
    return outcome


def _plan(world: World, criterion: Criterion) -> Plan:
    journey = JourneyTree(name=f"{world.account}/journeys/intervals", inputs=world.inputs)
    plan = compile_criterion(Account(world.account), journey, criterion, NOW, _no_audience)
    return with_universe_root(plan, journey.inputs)


def _no_audience(name: str) -> tuple[JourneyTree, str]:
    raise LookupError(name)


def _judge(
    backend: Backend,
    plan: Plan,
    truth: tuple[int, int],
    partitions: Sequence[int],
    choice: str,
    outcome: Outcome,
) -> None:
    size, population = truth
    counts = backend.execute(plan, Count(), partitions=partitions)
    hits, sampled = counts.sizes
    (effect,) = design_effects(counts.blocks, 1)
    estimate = estimated_size(hits, sampled, population, effect)
    too_small = estimate.state is SizeState.TOO_SMALL
    outcome.misnamed += too_small != (hits < HITS_MIN)
    for name in (ALL_SIZES, class_of(size / population)):
        tally = outcome.tallies[choice, name]
        tally.estimates += 1
        tally.inside += estimate.lower <= size <= estimate.upper
        tally.too_small += too_small


def class_of(share: float) -> str:
    """The name of the size class of a share of the users."""
    return next(f"up to {upper:.1%}" for upper in CLASSES if share <= upper)


# --- random criteria ----------------------------------------------------------------------------------------


def random_criterion(
    random: np.random.Generator, predicate: Callable[[np.random.Generator], Criterion]
) -> Criterion:
    """Attributes, events and buckets by themselves, negated, or two or three of them together."""
    form = random.random()
    if form < 0.5:
        return predicate(random)
    if form < 0.6:
        return Not(criterion=predicate(random))
    parts = tuple(predicate(random) for _ in range(int(random.integers(2, 4))))
    return AllOf(criteria=parts) if form < 0.85 else AnyOf(criteria=parts)


def marketing_predicate(random: np.random.Generator) -> Criterion:
    """A criterion over the marketing world, of few users as likely as of many."""
    match int(random.integers(0, 7)):
        case 0:
            width = _wide(random, 1, SCORE_MAX)
            low = float(random.integers(0, SCORE_MAX))
            return UserAttribute(key="score", test=Between(low, low + width))
        case 1:
            plans = random.choice(PLANS, int(random.integers(1, len(PLANS))), replace=False)
            return UserAttribute(key="plan", test=In(values=tuple(plans.tolist())))
        case 2:
            countries = random.choice(COUNTRIES, round(_wide(random, 1, len(COUNTRIES))), replace=False)
            return UserAttribute(key="country", test=In(values=tuple(countries.tolist())))
        case 3:
            duration = round(_wide(random, 0.1, SIGNUP_DAYS) * MICROS_PER_DAY)
            return UserAttribute(key="signup", test=WithinLast(duration))
        case 4:
            return _event(random, Aggregate.COUNT, float(random.integers(1, 4)))
        case 5:
            return _event(random, Aggregate.SUM, round(_wide(random, 1, AMOUNT_CENTS_MAX)) / 100)
        case _:
            width = _wide(random, 0.01, 99)
            low = random.uniform(0, 100 - width)
            salt = str(random.choice(SALTS))
            return Bucket(salt=salt, from_percent=low, to_percent=low + width)


def _event(random: np.random.Generator, aggregate: Aggregate, at_least: float) -> Criterion:
    return Event(
        name=str(random.choice(EVENT_NAMES)),
        window=Last(duration=round(_wide(random, 0.1, EVENT_DAYS) * MICROS_PER_DAY)),
        aggregate=aggregate,
        of="amount" if aggregate is Aggregate.SUM else "",
        test=Compare("greater_or_equal", at_least),
    )


def _wide(random: np.random.Generator, low: float, high: float) -> float:
    """A value between the two, small values as likely as large ones."""
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


# --- showing ------------------------------------------------------------------------------------------------


def _table(options: Options, outcome: Outcome, population: int) -> Table:
    table = Table(
        box=box.SIMPLE,
        title=f"Coverage of 95 % intervals: {options.criteria:,} criteria over {population:,} users",
        caption=f"{outcome.misnamed} states that are not what the hits say",
    )
    for heading in ("partitions", "size"):
        table.add_column(heading)
    for heading in ("estimates", "inside", "TOO_SMALL"):
        table.add_column(heading, justify="right")
    for choice in (RANDOM_ORDER, OWN_ORDER):
        for name in (ALL_SIZES, *map(class_of, CLASSES)):
            tally = outcome.tallies[choice, name]
            if tally.estimates:
                inside = f"{tally.coverage:.1%}"
                table.add_row(choice, name, f"{tally.estimates:,}", inside, f"{tally.too_small:,}")
    return table
