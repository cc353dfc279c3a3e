"""Calls over a restart succeed with the published retries; the long form is `make restarts`."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.faults.restarts import ALLOWED, PROGRESS_CALLS, READERS, play

ROUNDS = 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("readers", [0, 1])
def test_calls_over_a_restart_succeed_or_are_unavailable(tmp_path: Path, readers: int) -> None:
    """The rounds themselves assert that nothing acknowledged is lost, and how each call may end."""
    load = play(tmp_path, readers=readers, rounds=ROUNDS)
    for name in READERS:
        assert set(load.codes[name]) == {grpc.StatusCode.OK}
        assert load.codes[name].total() >= PROGRESS_CALLS * (ROUNDS + 1)
    assert set(load.codes["write"]) <= ALLOWED
