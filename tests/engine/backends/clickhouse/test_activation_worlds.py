"""Audiences that are activated over a cluster: what is delivered, folded, is what the oracle finds.

Worlds with edits of their journeys, as in `tests.service.delivery.test_delivered_worlds`; more of them, and
over two shards of two replicas:

    python -m tests.service.delivery.delivered_worlds --worlds 200 --shards 2 --replicas 2
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.backends.clickhouse.server import Address
from tests.engine.backends.clickhouse.databases import databases_on
from tests.service.delivery.delivered_worlds import run_worlds

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("in_whole_runs_only")]

WORLDS = 1


def test_files_folded_are_the_members_over_a_cluster(tmp_path: Path, shards: list[list[Address]]) -> None:
    seed = random.randrange(2**32)
    with databases_on(shards) as databases:
        outcome = run_worlds(seed, 0, WORLDS, tmp_path, databases.url)
    assert outcome.difference == "", (
        f"python -m tests.service.delivery.delivered_worlds --seed {seed} --shards 1"
    )
