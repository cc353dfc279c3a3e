"""The table of live audiences is measured and complete, at a small scale."""

from __future__ import annotations

from rich.console import Console

from tests.bench import live


def test_the_table_has_every_figure() -> None:
    options = live.Options(
        journeys=(2,),
        rates=(1_000, 3_000),
        seconds=0.2,
        events=1_000,
        idle_audiences=2,
        round_journeys=2,
        round_users=20,
        erased=500,
        tick_users=2_000,
    )
    figures = live.run(options, Console(quiet=True))
    assert [figure.what for figure in figures] == [
        *(
            f"acknowledgement → watch, 2 journeys, {rate} events/s, {what}"
            for rate in ("1,000", "3,000")
            for what in ("p50", "p99", "acknowledged", "CPU of the service")
        ),
        "CPU an event, 2 audiences that do not read it",
        "a round of 2 journeys, 20 new users",
        "an event of a new user, 20 at once",
        "a round of 2 journeys, 20 users leave in a second",
        "a round that moves one user, 500 erased",
        "a tick that moves no one, 2,000 users",
        "a tick that moves 2,000 users",
        "checks during that tick, p99",
    ]
    assert all(figure.value >= 0 for figure in figures)
