"""The table of watchers is measured and complete, at a small scale."""

from __future__ import annotations

from rich.console import Console

from tests.bench import watchers


def test_the_table_has_a_row_for_each_number_of_watchers() -> None:
    options = watchers.Options(watchers=(0, 6), audiences=2, seconds=0.2)
    rows = watchers.run(options, Console(quiet=True))
    assert [row.watchers for row in rows] == [0, 6]
    assert all(row.memory > 0 and row.check_p99 >= row.check_p50 > 0 for row in rows)
