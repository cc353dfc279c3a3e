"""No answer is smaller, and nothing acknowledged is lost or doubled, whatever servers do.

`make kill-cluster` runs many more rounds.
"""

from __future__ import annotations

import random

import pytest

from tests.engine.backends.clickhouse.faults import run
from tests.engine.backends.clickhouse.servers import reason_without_cluster


def test_every_answer_is_right_or_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    if reason := reason_without_cluster():
        pytest.skip(reason)
    seed = random.randrange(2**32)
    ended = run(1, seed)
    assert ended == 0, capsys.readouterr().out
