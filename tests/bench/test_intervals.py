"""The intervals table at a small scale: its figures hold."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from engine.audiences.model import SizeState
from tests.bench import intervals, sizes, steady
from tests.bench.marketing_world import Scale

SCALE = Scale(users=30_000, events=15_000)
CRITERIA = 1_500
STORE_SEED = 20_261_128


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of the store. The sampled users are the same each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "randbits", lambda bits: STORE_SEED)
        yield tmp_path_factory.mktemp("worlds")


def test_interval_covers_the_true_size_for_95_percent_of_partition_choices(kept: Path) -> None:
    options = intervals.Options(scale=SCALE, criteria=CRITERIA, keep=kept)
    outcome = intervals.run(options, Console(quiet=True))
    every = outcome.tallies[intervals.RANDOM_ORDER, intervals.ALL_SIZES]
    assert every.estimates == CRITERIA
    assert 0.94 <= every.coverage <= 0.97
    classes = [outcome.tallies[intervals.RANDOM_ORDER, intervals.class_of(c)] for c in intervals.CLASSES]
    assert sum(tally.estimates for tally in classes) == CRITERIA
    assert min(tally.coverage for tally in classes) >= 0.92
    assert outcome.misnamed == 0
    assert 0 < every.too_small < CRITERIA / 4


def test_only_the_changed_criterion_of_a_deep_milestone_is_computed(kept: Path) -> None:
    outcome = sizes.run(sizes.Options(scale=SCALE, keep=kept), Console(quiet=True))
    # Besides the changed score: the universe and two plans, sets that are stored as they are asked for.
    assert (outcome.changed.sources["column"], outcome.changed.sources["index"]) == (1, 3)
    assert outcome.changed.sources["cached"] == 25
    first, *later = [estimate for measured in outcome.rounds for estimate in measured.estimates]
    assert {label.label for label in first.labelled} == {label.label for label in later[0].labelled}
    assert len(first.labelled) == 10
    assert all(
        label.size.state in (SizeState.EXACT, SizeState.ESTIMATED, SizeState.TOO_SMALL)
        and label.size.lower <= label.size.users <= label.size.upper
        for label in first.labelled
    )


def test_the_same_question_keeps_its_answer(kept: Path) -> None:
    """The campaign in short: `make bench ARGS=steady` asks two thousand criteria. Prints its seed."""
    options = steady.Options(scale=SCALE, criteria=60, restarts_every=100, keep=kept)
    outcome = steady.run(options, Console())
    assert not outcome.unsteady
    assert not outcome.wrong
    assert (outcome.asked, outcome.restarts) == (300, 3)
    sampled = outcome.states[SizeState.ESTIMATED] + outcome.states[SizeState.TOO_SMALL]
    assert min(outcome.states[SizeState.EXACT], sampled) >= 50
    assert outcome.inside >= 0.9 * outcome.sampled
