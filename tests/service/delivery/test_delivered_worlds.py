"""Files that are written through edits, moves, deletions, aliases and erasures are the oracle's members."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.delivery.delivered_worlds import run_worlds

WORLDS = 15
SEED = 2


@pytest.mark.oracle
def test_files_folded_are_the_members_and_previews_count_what_they_get(tmp_path: Path) -> None:
    outcome = run_worlds(SEED, 0, WORLDS, tmp_path)
    assert outcome.difference == ""
    # There was something to see.
    assert outcome.events > 200
    assert outcome.edits > 20
    assert outcome.moving > 5
    assert outcome.updates > 10
