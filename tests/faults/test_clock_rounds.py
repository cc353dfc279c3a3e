"""A few rounds of a clock that jumps; `make clock ROUNDS=200` runs many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.clock_round import ClockRound

ROUNDS = 3


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
