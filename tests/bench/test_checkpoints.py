"""The table of waits beside checkpoints is measured and complete, at a small scale."""

from __future__ import annotations

from tests.bench import checkpoints


def test_the_table_has_every_figure() -> None:
    figures = checkpoints.run(checkpoints.Options(names=3, users=50, attributes=2))
    assert [figure.what for figure in figures] == [
        f"{what}, {turn}: {figure}"
        for what in ("events of 3 names", "50 users, 2 attributes")
        for turn in ("first", "again")
        for figure in ("checkpoint", "a write, p99", "a write, at most", "a read, p99", "a read, at most")
    ]
    assert all(figure.value > 0 for figure in figures)
