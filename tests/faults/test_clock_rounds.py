"""A few rounds of a clock that jumps; `make clock ROUNDS=200` plays many more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.clock_round import ClockRound

ROUNDS = 3


def test_what_a_wrong_clock_did_is_undone_and_nothing_is_removed_by_it(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seed = pytestconfig.getoption("--hypothesis-seed")
    rounds = [ClockRound(tmp_path / str(number), f"{seed} {number}", records=20) for number in range(ROUNDS)]
    for played in rounds:
        played.play()
    assert sum(played.steps for played in rounds) >= 2 * ROUNDS
