"""Steadiness of estimates: the same question has the same answer while its account's data stand still.

Random criteria are asked in random order, repeatedly and with reordered filters and labels, mixed with random
budgets and precisions, while another account is written to and the store is closed and reopened. An answer
may change in one way only: from a sample to the exact one, and then it stays.

The table also shows how many default answers were exact among those whose exact answer fits the default
budget when warm, and how often the interval of a sampled one contained the true size.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from rich.console import Console

from engine import Engine
from engine.audiences.estimate import EXACT_BUDGET_DEFAULT_MS
from engine.audiences.model import (
    Default,
    Draft,
    Estimate,
    Exact,
    MaxRelativeError,
    Precision,
    Size,
    SizeState,
    TimeBudget,
)
from engine.backends.base import UserRecord
from engine.criteria.model import AllOf, AnyOf, Criterion, Not
from tests.bench.intervals import marketing_predicate, random_criterion
from tests.bench.marketing_world import JOURNEY, NOW, Scale, open_engine

SEED = 20_261_128
PRECISIONS: tuple[Precision, ...] = (
    Default(),
    Default(),
    TimeBudget(1),
    TimeBudget(1_000),
    TimeBudget(5_000),
    TimeBudget(20_000),
    MaxRelativeError(0.2),
    MaxRelativeError(0.02),
)
ASKS_PER_QUESTION = 5
ASKS_BETWEEN_RESTARTS = 400
ASKS_BETWEEN_WRITES = 10
OTHER_ACCOUNT = "accounts/other"
OTHER_INPUT = f"{OTHER_ACCOUNT}/workspaces/w/inputs/i"

Answer: TypeAlias = tuple[int, Size, Size, tuple[tuple[str, Size], ...]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """`keep` is a directory that the store is kept in for later runs; None = a temporary one."""

    scale: Scale
    criteria: int
    seed: int = SEED
    restarts_every: int = ASKS_BETWEEN_RESTARTS
    keep: Path | None = None


@dataclass(kw_only=True)
class Outcome:
    """The outcome. `unsteady` are answers that were replaced by another sample."""

    asked: int = 0
    restarts: int = 0
    states: Counter[SizeState] = field(default_factory=Counter)
    became_exact: int = 0
    unsteady: list[tuple[Criterion, Precision, Answer, Answer]] = field(default_factory=list)
    quick: int = 0
    quick_and_exact: int = 0
    slow_and_exact: int = 0
    sampled: int = 0
    inside: int = 0
    wrong: list[Criterion] = field(default_factory=list)


def run(options: Options, console: Console) -> Outcome:
    """Fills the store if needed, runs the questions, and prints the outcome."""
    with _directory(options) as directory:
        asking = _Asking(options, directory)
        try:
            asking.ask_in_random_order()
            asking.compare_with_exact()
        finally:
            asking.engine.close()
    _print(options, asking.outcome, console)
    return asking.outcome


class _Asking:
    def __init__(self, options: Options, directory: Path) -> None:
        self._options = options
        self._directory = directory
        self._random = np.random.default_rng(options.seed)
        self._questions = [self._question() for _ in range(options.criteria)]
        self._answers: dict[tuple[int, Precision], Answer] = {}
        self._first_default: dict[int, Answer] = {}
        self.engine: Engine = open_engine(directory, options.scale)
        self.outcome = Outcome()

    def _question(self) -> Criterion:
        """Two to five labelled criteria, together or one of them."""
        parts = tuple(
            msgspec.structs.replace(random_criterion(self._random, marketing_predicate), label=f"part {at}")
            for at in range(int(self._random.integers(2, 6)))
        )
        return AllOf(criteria=parts) if self._random.random() < 0.6 else AnyOf(criteria=parts)

    def ask_in_random_order(self) -> None:
        order = np.repeat(np.arange(len(self._questions)), ASKS_PER_QUESTION)
        for turn, at in enumerate(self._random.permutation(order).tolist(), 1):
            self._ask(at, PRECISIONS[int(self._random.integers(len(PRECISIONS)))])
            if turn % ASKS_BETWEEN_WRITES == 0:
                self._write_elsewhere(turn)
            if turn % self._options.restarts_every == 0:
                self.engine.close()
                self.engine = open_engine(self._directory, self._options.scale)
                self.outcome.restarts += 1

    def _ask(self, at: int, precision: Precision) -> None:
        answer = self._estimate(_shuffled(self._random, self._questions[at]), precision)
        self.outcome.asked += 1
        self.outcome.states[answer[1].state] += 1
        if isinstance(precision, Default):
            self._first_default.setdefault(at, answer)
        before = self._answers.setdefault((at, precision), answer)
        if answer == before:
            return
        self._answers[at, precision] = answer
        if _is_exact(answer) and not _is_exact(before):
            self.outcome.became_exact += 1
        else:
            self.outcome.unsteady.append((self._questions[at], precision, before, answer))

    def _estimate(self, criterion: Criterion, precision: Precision) -> Answer:
        draft = Draft(journey=JOURNEY, criteria=criterion)
        return _answer(self.engine.sizes.estimate(draft, precision=precision, as_of=NOW))

    def _write_elsewhere(self, turn: int) -> None:
        users = [f"other-{turn}-{number}" for number in range(50)]
        self.engine.backend.append(OTHER_ACCOUNT, [UserRecord(u, OTHER_INPUT, NOW) for u in users])

    def compare_with_exact(self) -> None:
        """Every question again, exactly, twice: the second time is the warm one."""
        for at, question in enumerate(self._questions):
            exact = self._estimate(question, Exact())
            begun = time.perf_counter()
            again = self._estimate(question, Exact())
            quick = time.perf_counter() - begun <= EXACT_BUDGET_DEFAULT_MS / 1_000
            if again != exact:
                self.outcome.wrong.append(question)
            default = self._first_default.get(at)
            if default is not None:
                self.outcome.quick += quick
                self.outcome.quick_and_exact += quick and _is_exact(default)
                self.outcome.slow_and_exact += not quick and _is_exact(default)
            for precision in set(PRECISIONS):
                answer = self._answers.get((at, precision))
                if answer is not None:
                    self._judge(question, answer, exact)

    def _judge(self, question: Criterion, answer: Answer, exact: Answer) -> None:
        if _is_exact(answer):
            if answer != exact:
                self.outcome.wrong.append(question)
            return
        pairs = [(answer[1], exact[1]), *zip(dict(answer[3]).values(), dict(exact[3]).values(), strict=True)]
        for size, true in pairs:
            if size.state is not SizeState.EXACT:
                self.outcome.sampled += 1
                self.outcome.inside += size.lower <= true.users <= size.upper


def _answer(estimate: Estimate) -> Answer:
    labelled = sorted((label.label, label.size) for label in estimate.labelled)
    return estimate.population, estimate.size, estimate.draw, tuple(labelled)


def _is_exact(answer: Answer) -> bool:
    return all(size.state is SizeState.EXACT for size in (answer[1], *dict(answer[3]).values()))


def _shuffled(random: np.random.Generator, criterion: Criterion) -> Criterion:
    """The same criterion with the members of every group in another order."""
    match criterion:
        case AllOf() | AnyOf():
            order = random.permutation(len(criterion.criteria))
            members = [_shuffled(random, criterion.criteria[at]) for at in order]
            return msgspec.structs.replace(criterion, criteria=tuple(members))
        case Not():
            return msgspec.structs.replace(criterion, criterion=_shuffled(random, criterion.criterion))
        case _:
            return criterion


@contextmanager
def _directory(options: Options) -> Iterator[Path]:
    if options.keep is not None:
        yield options.keep
    else:
        with tempfile.TemporaryDirectory(prefix="milepost-steady-") as temporary:
            yield Path(temporary)


def _print(options: Options, outcome: Outcome, console: Console) -> None:
    states = ", ".join(f"{count:,} {state.name}" for state, count in outcome.states.most_common())
    console.print(
        f"{options.criteria:,} criteria over {options.scale.users:,} users, seed {options.seed}:"
        f" {outcome.asked:,} answers ({states}), {outcome.restarts} restarts\n"
        f"given up for another sample: {len(outcome.unsteady)}; became exact: {outcome.became_exact};"
        f" exact and wrong: {len(outcome.wrong)}\n"
        f"defaults that were exact, of {outcome.quick:,} whose exact answer takes at most"
        f" {EXACT_BUDGET_DEFAULT_MS} ms warm: {outcome.quick_and_exact:,};"
        f" exact though it takes longer: {outcome.slow_and_exact:,}"
    )
    if outcome.sampled:
        share = outcome.inside / outcome.sampled
        console.print(f"true sizes inside: {outcome.inside:,} of {outcome.sampled:,} ({share:.1%})")
    for criterion, precision, before, after in outcome.unsteady[:3]:
        console.print(f"unsteady: {precision} {criterion}\n  {before}\n  {after}")
