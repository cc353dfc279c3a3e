"""A few rounds of a clock that jumps; `make clock ROUNDS=200` runs many."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.values import MICROS_PER_SECOND
from tests.faults.clock_round import ClockRound

ROUNDS = 2


def test_effects_of_a_wrong_clock_are_undone(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    seed = pytestconfig.getoption("--hypothesis-seed")
    rounds = [ClockRound(tmp_path / str(number), f"{seed} {number}", records=20) for number in range(ROUNDS)]
    for played in rounds:
        played.play()
    assert sum(played.steps for played in rounds) >= 2 * ROUNDS


def test_horizons_are_shorter_after_a_start_ahead(tmp_path: Path) -> None:
    """A start believes a clock that is an hour ahead: a request id is forgotten 23 hours after it came."""
    played = ClockRound(tmp_path, "1 13")
    played.play()
    assert played.jumps


def test_checks_over_journeys_of_different_instants_agree_with_lists_of_one(tmp_path: Path) -> None:
    """Events count for a microsecond, and a round comes too early for journeys without new data."""
    played = ClockRound(tmp_path, "short 13", records=6, passes=(7, 7, 7, MICROS_PER_SECOND))
    played.play()
    assert played.steps >= 9
