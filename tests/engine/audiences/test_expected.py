"""Windows slide on the right second without new data, and a tick looks only at whom time may move."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from engine.backends.base import Members, UserRecord
from engine.backends.local.roles import memberships as memberships_module
from engine.criteria.model import (
    AllOf,
    AnyOf,
    BetweenAgo,
    Calendar,
    CalendarUnit,
    Compare,
    Criterion,
    Event,
    Last,
    Not,
    OlderThan,
    UserAttribute,
    WithinLast,
)
from engine.resources.records import Milestone
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND
from tests.engine.site import ACCOUNT, JOURNEY, NOW, WEB, Site, did, event

SECOND, MINUTE, HOUR, DAY = MICROS_PER_SECOND, 60 * MICROS_PER_SECOND, MICROS_PER_HOUR, MICROS_PER_DAY


@contextmanager
def counting(site: Site) -> Iterator[Counter[str]]:
    """What a round asks of the store: scopes evaluated, horizons, and users that plans looked at."""
    found: Counter[str] = Counter()
    backend: Any = site.backend
    evaluate, look_ahead, roots = backend._evaluate, backend.look_ahead, backend._executor.roots

    def evaluated(*args: Any) -> None:
        found["scopes"] += 1
        evaluate(*args)

    def looked(account: str, scope: str, level: int, *args: Any) -> None:
        found[f"horizon {level}"] += 1
        look_ahead(account, scope, level, *args)

    def answered(plan: Any, group: int, base: Any, read: Any) -> Any:
        some = base()
        found["groups of everyone" if some is None else "users"] += 1 if some is None else len(some)
        return roots(plan, group, base, read)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(backend, "_evaluate", evaluated)
        patched.setattr(backend, "look_ahead", looked)
        patched.setattr(backend._executor, "roots", answered)
        yield found


def members_of(site: Site, milestone: Milestone) -> set[str]:
    return set(site.backend.stored_members(milestone.audience, Members()).user_ids)


def test_a_tick_looks_at_no_one_unless_someone_is_expected_to_move(site: Site) -> None:
    """1. Of a thousand users one leaves in ten minutes, one in two hours, the others in a month. 2. Ticks of
    a second look at no one but in the minute of a move, and then at that user alone.
    """
    site.send([(f"u{number}", "buy") for number in range(1_000)])
    site.send([("soon", "buy")], time=NOW - 30 * DAY + 10 * MINUTE + 1)
    site.send([("later", "buy")], time=NOW - 30 * DAY + 2 * HOUR + 1)
    milestone = site.add("m", did("buy", days=30))
    site.connect(milestone)
    site.engine.live.refresh_all()
    users = 0
    with counting(site) as found:
        for second in range(1, 3 * 3_600 + 1, 1):
            if second % 60 > 3 and second not in range(595, 606) and second not in range(7_195, 7_206):
                continue
            site.clock.now = NOW + second * SECOND
            before = Counter(found)
            site.engine.live.refresh_all()
            looked = found - before
            users += looked["users"]
            assert len(members_of(site, milestone)) == 1_002 - (second > 600) - (second > 7_200), second
            if not looked["horizon 0"]:
                assert not looked["groups of everyone"], second
            assert looked["users"] <= 6, (second, looked)
    # About once an hour everyone, once a minute those of the hour.
    assert found["horizon 0"] <= 4
    assert found["horizon 1"] <= 3 * 60 + 4
    assert found["groups of everyone"] <= 4 * site.backend._store.groups  # type: ignore[attr-defined]
    changes = site.backend.changes(milestone.audience, 1_002, 10).changes
    assert [(c.user_id, c.entered, c.as_of) for c in changes] == [
        ("soon", False, NOW + 601 * SECOND),
        ("later", False, NOW + 7_201 * SECOND),
    ]


def test_a_few_users_of_the_coming_second_are_evaluated_without_a_plan(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. Someone is expected to leave within the second, which takes a plan. 2. The round in which that
    happens, and one before it, bind none and look at that user alone. 3. More users than are evaluated so are
    searched by a plan, with the same outcome.
    """
    site.send([("soon", "buy"), ("too", "buy")], time=NOW - 30 * DAY + SECOND // 5)
    site.send([("stays", "buy")])
    milestone = site.add("m", did("buy", days=30))
    site.connect(milestone)
    for _ in range(2):
        site.engine.live.refresh_all()
    backend: Any = site.backend
    bound: list[Any] = []
    real = backend._executor.bind_once

    def bind_once(*arguments: Any) -> Any:
        bound.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(backend._executor, "bind_once", bind_once)
    site.clock.now += SECOND // 10
    with counting(site) as found:
        site.engine.live.refresh_all()
        assert members_of(site, milestone) == {"soon", "too", "stays"}
        site.clock.now += SECOND // 10
        site.engine.live.refresh_all()
    assert members_of(site, milestone) == {"stays"}
    assert (bound, found["scopes"], found["users"]) == ([], 2, 0)
    changes = site.backend.changes(milestone.audience, 3, 10).changes
    assert {(c.user_id, c.entered, c.as_of) for c in changes} == {
        (user, False, NOW + SECOND // 5) for user in ("soon", "too")
    }
    monkeypatch.setattr(memberships_module, "EXPECTED_EVALUATED_MAX", 0)
    site.send([("later", "buy")], time=site.clock.now - 30 * DAY + 2 * SECOND)
    for _ in range(3):
        site.engine.live.refresh_all()
        site.clock.now += SECOND
    assert bound
    assert members_of(site, milestone) == {"stays"}


@pytest.mark.parametrize(
    ("criterion", "moves"),
    [
        (did("buy", days=1), [("u", False, 30 * SECOND)]),
        (Event(name="buy", window=BetweenAgo(from_=2 * DAY, to=DAY)), [("u", True, 30 * SECOND)]),
        (Not(criterion=did("buy", days=1)), [("u", True, 30 * SECOND)]),
        (UserAttribute(key="due", test=OlderThan(DAY)), [("u", True, 30 * SECOND)]),
        (UserAttribute(key="$last_seen", test=WithinLast(DAY)), [("u", False, 30 * SECOND)]),
        # A window of ten seconds that an event ahead of the clock enters and leaves within one horizon.
        (
            Event(name="ahead", window=Last(duration=10 * SECOND)),
            [("u", True, 20 * SECOND), ("u", False, 30 * SECOND)],
        ),
        (Event(name="today", window=Calendar(unit=CalendarUnit.HOUR)), [("u", False, 40 * SECOND)]),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["before", "after the first round"])
def test_each_kind_of_window_moves_users_on_its_second(
    site: Site, criterion: Criterion, moves: list[tuple[str, bool, int]], late: bool
) -> None:
    """The data come before the first round, or when it is known already whom time is going to move."""
    start = NOW + HOUR - 40 * SECOND
    site.clock.now = start
    site.send([("u", "x"), ("other", "x")], time=start - 10 * DAY)
    name = criterion.name if isinstance(criterion, Event) else ""

    def send() -> None:
        edge = start - DAY + 30 * SECOND
        site.backend.append(
            ACCOUNT, [event("u", "buy", time=edge), UserRecord("u", WEB, edge, {"due": edge})]
        )
        if name == "ahead":
            site.backend.append(ACCOUNT, [event("u", "ahead", time=start + 20 * SECOND)])
        if name == "today":
            site.backend.append(ACCOUNT, [event("u", "today", time=start - MINUTE)])

    if not late:
        send()
    milestone = site.add("m", criterion)
    site.connect(milestone)
    for step in range(3):
        site.clock.now = start + step * SECOND
        site.engine.live.refresh_all()
        if late and step == 1:
            send()
    membership = site.backend.membership(milestone.audience)
    assert membership is not None
    for second in range(3, 100):
        site.clock.now = start + second * SECOND
        site.engine.live.refresh_all()
    page = site.backend.changes(milestone.audience, membership.last_sequence, 100).changes
    assert [(c.user_id, c.entered, c.as_of - start) for c in page] == moves
    assert members_of(site, milestone) == site.members(milestone)


def test_random_windows_and_steps_of_the_clock(site: Site) -> None:
    """Memberships are right after each step, with late events, new users, aliases, erasures, jumps back and
    restarts in between.
    """
    seed = random.randrange(1 << 20)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    criteria: list[Criterion] = [
        did("buy", days=1),
        AllOf(criteria=(did("buy", days=2), Not(criterion=did("open", days=1)))),
        Event(name="open", window=Last(duration=HOUR), test=Compare("greater_or_equal", 2.0)),
        AnyOf(
            criteria=(
                UserAttribute(key="$last_seen", test=OlderThan(DAY)),
                Event(name="buy", window=Calendar(unit=CalendarUnit.DAY)),
            )
        ),
        UserAttribute(key="due", test=OlderThan(DAY)),
    ]
    milestones = [site.add(f"m{at}", criterion) for at, criterion in enumerate(criteria)]
    milestones.append(site.add("rest", None))
    for at, milestone in enumerate(milestones):
        site.connect(milestone, f"c{at}")
    users = [f"u{number}" for number in range(30)]

    def some_events() -> None:
        edges = (0, HOUR, DAY, 2 * DAY)
        rows = [
            event(
                chosen.choice(users),
                chosen.choice(("buy", "open", "unread")),
                time=site.clock.now - chosen.choice(edges) + chosen.randrange(-90, 90) * SECOND,
            )
            for _ in range(chosen.randrange(8))
        ]
        site.backend.append(ACCOUNT, rows)

    for step in range(150):
        match chosen.randrange(13):
            case 12:
                due = site.clock.now - DAY + chosen.randrange(200) * SECOND
                site.update(chosen.choice(users), {"due": due}, time=site.clock.now)
            case 0:
                site.backend.erase(ACCOUNT, [chosen.choice(users)])
            case 1:
                site.backend.alias(ACCOUNT, f"a{step}", chosen.choice(users))
            case 2 | 3 | 4 | 5 | 6:
                some_events()
            case _:
                pass
        steps = (0, 200_000, SECOND, SECOND, 7 * SECOND, 61 * SECOND, HOUR + 5, -2 * SECOND, 9 * HOUR)
        site.clock.now += chosen.choice(steps)
        if step % 50 == 49:
            site.engine.close()
            site.open()
        # Within a second of a round time alone moves no one.
        site.engine.live.refresh_all()
        site.clock.now += SECOND
        site.engine.live.refresh_all()
        for milestone in milestones:
            assert members_of(site, milestone) == site.members(milestone), (step, milestone.name)


def test_downtime_is_caught_up_once(site: Site) -> None:
    site.send([("u", "buy")], time=NOW - DAY + MINUTE)
    milestone = site.add("m", did("buy", days=1))
    site.connect(milestone)
    site.engine.live.refresh_all()
    site.engine.close()
    site.clock.now = NOW + HOUR
    site.open()
    for _ in range(3):
        site.engine.live.refresh_all()
        site.clock.now += SECOND
    page = site.backend.changes(milestone.audience, 0, 10).changes
    assert [(c.user_id, c.entered, c.as_of) for c in page] == [("u", True, NOW), ("u", False, NOW + HOUR)]
    assert site.backend.expected(JOURNEY) == 0
