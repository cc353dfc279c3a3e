"""Lists and exports that readers answer have the members that the evaluator finds, in its order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.audiences.member_tokens import MemberTokens, Place
from engine.backends.base import ServedMembers
from engine.backends.local.serving.reader import LocalServingReader
from engine.criteria.model import Event
from engine.errors import StoreUnavailable
from engine.resources.records import Milestone
from engine.values import MICROS_PER_SECOND, Micros
from tests.engine.backends.local.serving.test_serving import BOUGHT_LATELY, GOLD, Served, edit, reading
from tests.engine.backends.local.serving.world import STEPS, World
from tests.engine.site import ACCOUNT, did

PAGE_SIZES = (1, 2, 5, 50)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    site = Served(tmp_path / "store")
    yield site
    site.close()


@dataclass
class Walk:
    """A list that is read page by page while the world changes."""

    name: str
    size: int
    after: str = ""
    as_of: Micros | None = None


def writers_page(site: Served, walk: Walk, as_of: Micros) -> tuple[list[str], str]:
    """The writer's page: ids, and where the next one begins."""
    tokens = MemberTokens(site.engine.pages)
    if walk.as_of is None:
        page = site.engine.members.list_members(walk.name, page_size=walk.size, as_of=as_of)
        asked: Micros | None = as_of
    else:
        token = tokens.token(walk.name, None, Place(walk.after, walk.as_of))
        page = site.engine.members.list_members(walk.name, page_size=walk.size, page_token=token)
        asked = None
    token = page.next_page_token
    return list(page.user_ids), tokens.place(walk.name, asked, token).after if token else ""


def go_on(site: Served, walk: Walk) -> bool:
    """Reads the next page of a walk from the reader and the writer. Returns whether the reader answered."""
    page = reading(site).page(walk.name, walk.after, walk.size, walk.as_of)
    if page is None:
        instant = site.clock.now if walk.as_of is None else walk.as_of
        _, after = writers_page(site, walk, instant)
    else:
        instant, after = page.as_of, page.next_after
        assert (page.user_ids, after) == writers_page(site, walk, instant), walk
        assert page.revision == site.backend.revision()
    walk.after, walk.as_of = after, instant if after else None
    return page is not None


def test_every_page_is_the_evaluators_while_the_world_changes(served: Served) -> None:
    world = World(served)
    names = [name for each in world.milestones for name in (each.audience, each.name)]
    walks = [Walk(name, world.rng.choice(PAGE_SIZES)) for name in names]
    answered = later = 0
    for _ in range(STEPS):
        world.step()
        for walk in walks:
            is_later = bool(walk.after)
            is_answered = go_on(served, walk)
            answered += is_answered
            later += is_answered and is_later
    assert answered > STEPS
    assert later > STEPS / 4


def exported(members: ServedMembers, limit: int = 3) -> list[str]:
    """All users of an export."""
    found: list[str] = []
    after = ""
    while True:
        page = members.page(after, limit)
        assert len(page.user_ids) <= limit
        found += page.user_ids
        after = page.next_after
        if not after:
            return found


def test_every_export_is_the_evaluators_at_its_beginning(served: Served) -> None:
    world = World(served)
    exports = later = 0
    kept: list[tuple[ServedMembers, list[str]]] = []
    for _ in range(STEPS):
        world.step()
        for milestone in world.milestones:
            served.tick()
            members = reading(served).members(milestone.name)
            if members is None:
                continue
            exports += 1
            pages = served.engine.members.export(milestone.name, as_of=members.page("", 1).as_of)
            truth = [user for page in pages for user in page.user_ids]
            assert exported(members) == truth
            kept.append((members, truth))
        for members, truth in kept[-8:]:
            # Users who have come again have other places; those who are aliases now have none.
            found = exported(members)
            later += found == truth
            assert found == [user for user in truth if user in set(found)]
    assert exports > STEPS
    assert later > STEPS


def test_an_export_does_not_change_but_for_erased_users(served: Served) -> None:
    gold = served.add("gold", GOLD)
    for number in range(10):
        served.update(f"u{number}", {"plan": "gold"})
    served.connect(gold)
    served.refresh()
    members = reading(served).members(gold.audience)
    assert members is not None
    before = exported(members)
    assert sorted(before) == [f"u{number}" for number in range(10)]
    served.update("u3", {"plan": "tin"}, time=served.clock.now + 1)
    served.update("later", {"plan": "gold"})
    edit(served, gold, did("visit"))
    served.refresh()
    assert exported(members) == before
    served.backend.erase(ACCOUNT, ["u5", "u6"])
    served.backend.alias(ACCOUNT, "u7", "u8")
    assert exported(members) == [user for user in before if user not in {"u5", "u6", "u7"}]
    # Whoever comes again is another.
    served.update("u5", {"plan": "gold"})
    served.refresh()
    assert "u5" not in exported(members)


def test_erased_ids_are_nowhere_in_the_memory(served: Served) -> None:
    reader = served.reader
    assert isinstance(reader, LocalServingReader)
    gold = served.add("gold", GOLD)
    for number in range(10):
        served.update(f"secret-{number}", {"plan": "gold"})
    served.connect(gold)
    served.refresh()
    memory = reader._memory
    used = 1 << 26
    assert memory.bytes(0, used).count(b"secret-") == 10
    served.backend.erase(ACCOUNT, ["secret-4"])
    served.update("secret-new", {"plan": "gold"})
    served.refresh()
    everything = memory.bytes(0, used)
    assert b"secret-4" not in everything
    assert b"secret-new" in everything


def test_an_export_of_an_account_that_was_emptied_says_so(served: Served) -> None:
    gold = served.add("gold", GOLD)
    served.update("ada", {"plan": "gold"})
    served.connect(gold)
    served.refresh()
    members = reading(served).members(gold.audience)
    assert members is not None
    served.backend.erase(ACCOUNT, ["ada"])
    served.backend.forget(ACCOUNT, ACCOUNT)
    with pytest.raises(StoreUnavailable):
        members.page("", 1)


def test_pages_are_answered_where_nobody_was_touched(served: Served) -> None:
    gold = served.add("gold", GOLD)
    users = [f"u{number}" for number in range(200)]
    for user in users:
        served.update(user, {"plan": "gold"})
    served.connect(gold)
    served.refresh()
    every = reading(served).page(gold.name, "", 1_000, None)
    assert every is not None
    order = every.user_ids
    assert sorted(order) == sorted(users)
    # The last in order loses its place: pages before it are as they were.
    served.update(order[-1], {"plan": "tin"}, time=served.clock.now + 1)
    first = reading(served).page(gold.name, "", 20, None)
    assert first is not None
    assert first.user_ids == order[:20]
    second = reading(served).page(gold.name, first.next_after, 20, first.as_of)
    assert second is not None
    assert second.user_ids == order[20:40]
    assert reading(served).page(gold.name, "", 1_000, None) is None
    assert reading(served).members(gold.name) is None
    assert reading(served).serves(gold.name)
    # The first one too.
    served.update(order[0], {"plan": "tin"}, time=served.clock.now + 1)
    assert reading(served).page(gold.name, "", 20, None) is None
    assert reading(served).page(gold.name, first.next_after, 20, first.as_of) is not None


def test_a_walk_goes_on_at_its_instant_after_rounds_that_moved_others(served: Served) -> None:
    lately = served.add("lately", BOUGHT_LATELY)
    for number in range(40):
        served.send([(f"u{number}", "buy")], time=served.clock.now)
    served.connect(lately)
    served.refresh()
    first = reading(served).page(lately.name, "", 10, None)
    assert first is not None
    assert len(first.user_ids) == 10
    served.clock.now += 11 * MICROS_PER_SECOND
    served.tick()
    served.refresh()
    count = reading(served).count(lately.name)
    assert count is not None
    assert count.users == 0
    second = reading(served).page(lately.name, first.next_after, 1_000, first.as_of)
    assert second is not None
    assert (len(second.user_ids), second.as_of) == (30, first.as_of)
    assert reading(served).page(lately.name, first.next_after, 10, first.as_of - 1) is None
    visited = Event(name="visit", window=BOUGHT_LATELY.window)
    edit(served, lately, visited)
    served.refresh()
    assert reading(served).count(lately.name) is not None
    assert reading(served).page(lately.name, first.next_after, 10, first.as_of) is None


def test_ids_of_many_users_come_in_pages(served: Served) -> None:
    gold: Milestone = served.add("gold", did("visit"))
    users = [f"user-{number}-{'x' * (number % 40)}" for number in range(9_000)]
    served.send([(user, "visit") for user in users])
    served.connect(gold)
    served.refresh()
    members = reading(served).members(gold.audience)
    assert members is not None
    assert sorted(exported(members, 1_000)) == sorted(users)
    more = [f"more-{number}" for number in range(9_000)]
    served.send([(user, "visit") for user in more])
    served.refresh()
    again = reading(served).members(gold.audience)
    assert again is not None
    assert sorted(exported(again, 1_000)) == sorted(users + more)
    assert sorted(exported(members, 1_000)) == sorted(users)
