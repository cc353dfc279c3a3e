"""The growth table at a small scale: the world, the count and the plot."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from tests.bench import growth, growth_world
from tests.bench.growth_figures import Growth, Memory, Restart
from tests.bench.growth_plot import PANELS, draw

USERS = 3_000
MICROS_A_DAY = growth_world.MICROS_A_DAY
END_MICROS = growth_world.FIRST_MICROS + growth_world.DAYS * MICROS_A_DAY
NAMESPACE = "{http://www.w3.org/2000/svg}"


def rows(users: int) -> list[dict[str, Any]]:
    return [row for batch in growth_world.batches(users) for row in batch.to_pylist()]


def micros(row: dict[str, Any]) -> int:
    time: datetime = row["time"]
    return round(time.timestamp() * 1_000_000)


def counted_by_a_loop(users: int) -> int:
    """The users for whom the three terms hold, one event after the other."""
    views, carts, opens = Counter[str](), set[str](), set[str]()
    for row in rows(users):
        ago = END_MICROS - micros(row)
        if row["name"] == "view" and ago < growth_world.VIEW_DAYS * MICROS_A_DAY:
            views[row["user_id"]] += 1
        if row["name"] == "cart" and row["amount"] >= growth_world.CART_AMOUNT_MIN:
            carts.add(row["user_id"])
        if row["name"] == "open" and ago < growth_world.OPEN_DAYS * MICROS_A_DAY:
            opens.add(row["user_id"])
    return sum(views[user] >= growth_world.VIEWS_MIN for user in carts - opens)


def test_every_user_has_ten_events_in_random_order() -> None:
    drawn = rows(USERS)
    assert Counter(Counter(row["user_id"] for row in drawn).values()) == {10: USERS}
    order = [row["user_id"] for row in drawn]
    assert len({tuple(order[start : start + USERS]) for start in range(0, len(order), USERS)}) == 10
    assert all(growth_world.FIRST_MICROS <= micros(row) < END_MICROS for row in drawn)
    shares = Counter(row["name"] for row in drawn)
    for name, share in zip(growth_world.NAMES, growth_world.NAME_SHARES, strict=True):
        assert shares[name] / len(drawn) == pytest.approx(share, abs=0.01)
    assert drawn == rows(USERS)


def test_count_equals_a_plain_loop_after_kill_and_stop(tmp_path: Path) -> None:
    svg = tmp_path / "growth.svg"
    options = growth.Options((USERS // 3, USERS), keep=tmp_path, svg=svg, short_runs=1)
    grown = growth.run(options, Console(quiet=True))
    assert [(each.users, each.events) for each in grown] == [(1_000, 10_000), (3_000, 30_000)]
    for each in grown:
        counted = counted_by_a_loop(each.users)
        assert 0 < counted < each.users
        assert (each.after_kill.counted, each.after_stop.counted) == (counted, counted)
        # What was acknowledged when the service was killed was only in the log.
        assert each.log_bytes > each.events
    assert svg.read_text(encoding="utf-8") == draw(grown)
    with pytest.raises(SystemExit, match="growth-1000 exists already"):
        growth.run(options, Console(quiet=True))


def scale(users: int, *, factor: float) -> Growth:
    """Ingest at 100 k events a second; everything else 1, 2, 3 … times `factor`."""
    return Growth(
        users=users,
        events=10 * users,
        import_seconds=10 * users / 100_000,
        import_cpu_seconds=1.0,
        memory_after_import=Memory(1, 1, 1),
        log_bytes=1,
        after_kill=Restart(2 * factor, 3 * factor, 7),
        checkpoint_seconds=1.0,
        disk_bytes=round(1_000_000 * factor),
        after_stop=Restart(1 * factor, 2 * factor, 7),
        count_ms=5 * factor,
        memory_after_questions=Memory(round(20_000_000 * factor), round(10_000_000 * factor), 1),
    )


def test_the_median_of_short_runs_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [scale(1_000, factor=factor) for factor in (4, 1, 5, 2, 3)]
    stores: list[str] = []

    def measured(users: int, store: Path, tell: object) -> Growth:
        stores.append(store.name)
        run = drawn[len(stores) - 1]
        return replace(run, checkpoint_seconds=run.count_ms)

    monkeypatch.setattr(growth, "measure", measured)
    monkeypatch.setattr(growth, "draw", lambda grown: f"{len(grown)} scales")
    options = growth.Options((1_000,), keep=tmp_path, svg=tmp_path / "growth.svg")
    [kept] = growth.run(options, Console(quiet=True))
    assert kept.count_ms == 15
    assert stores == ["growth-1000", *(f"growth-1000-{turn}" for turn in (2, 3, 4, 5))]


def test_plot_shows_every_figure() -> None:
    svg = ET.fromstring(draw([scale(1_000, factor=1), scale(10_000, factor=10), scale(100_000, factor=100)]))
    panels = svg.findall(f"{NAMESPACE}g")
    assert len(panels) == len(PANELS)
    dots: dict[str, list[tuple[float, float]]] = defaultdict(list)
    texts: dict[str, list[str]] = {}
    for described, panel in zip(PANELS, panels, strict=True):
        for dot in panel.findall(f"{NAMESPACE}circle"):
            dots[described.title].append((float(dot.attrib["cx"]), float(dot.attrib["cy"])))
        texts[described.title] = [each.text or "" for each in panel.findall(f"{NAMESPACE}text")]
    assert {title: len(places) for title, places in dots.items()} == {
        panel.title: 3 * len(panel.lines) for panel in PANELS
    }
    for places in dots.values():
        first, second, third = (x for x, _ in places[:3])
        assert third - second == pytest.approx(second - first, abs=0.2)
    assert len({y for _, y in dots["Ingest"][:3]}) == 1
    # Checkpoint and import together: 1.1, 2 and 11 seconds.
    assert {"100 k", "9.09 k", "50 k", "90.9 k"} < set(texts["Ingest"])
    # Ten times the users, ten times the milliseconds: a straight line upwards.
    first, second, third = (y for _, y in dots["Exact count of three terms"])
    assert first - second == pytest.approx(second - third, abs=0.2)
    assert first > second
    assert {"5", "50", "500"} < set(texts["Exact count of three terms"])
    assert {"1 M", "10 M", "100 M"} < set(texts["Disk, checkpointed"])
    assert {"20 M", "200 M", "2 G", "100 M", "1 G"} < set(texts["Memory after the questions"])
    assert {"after a kill", "after a stop", "2", "20", "200", "1", "10", "100"} < set(
        texts["Start until SERVING"]
    )
