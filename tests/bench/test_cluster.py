"""The questions of the cluster's table at a small scale: our statements, over one shard and two, and those by
hand have the embedded store's answers.
"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.bench import cluster_mapped, cluster_promoted, synthetic
from tests.bench.cluster import BY_HAND, run
from tests.engine.backends.clickhouse.servers import reason_without_cluster


def test_all_ways_to_ask_have_the_same_answer() -> None:
    if reason := reason_without_cluster():
        pytest.skip(reason)
    rows = run(synthetic.Scale(users=2_000, events=40_000), Console(file=io.StringIO()))
    assert [row.form for row in rows] == list(BY_HAND)
    assert all(0 < row.users < 2_000 for row in rows)


def test_events_in_a_table_of_others_have_their_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := reason_without_cluster():
        pytest.skip(reason)
    monkeypatch.setattr(cluster_mapped, "EVENTS", 2_000)
    monkeypatch.setattr(cluster_mapped, "USERS", 100)
    costs = cluster_mapped.run(Console(file=io.StringIO()))
    assert len(costs) == 23


def test_columns_of_event_attributes_have_their_savings() -> None:
    """Both tables give the same answers, or it raises."""
    if reason := reason_without_cluster():
        pytest.skip(reason)
    saved = cluster_promoted.run(20_000, Console(file=io.StringIO()))
    assert len(saved) == 14
    assert all(0 < each.users < 1_000 for each in saved)
    by_attribute = [each for each in saved if each.form != "count, no where"]
    assert all(each.column_bytes < each.map_bytes for each in by_attribute)
