"""Rounds leave no objects behind: neither for ever, nor until a collection, which stops every thread, finds
them.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from engine.criteria.model import Criterion
from engine.resources.records import Journey
from engine.values import MICROS_PER_SECOND
from tests.engine.site import ACCOUNT, Site, did

JOURNEYS = 4
ROUNDS = 32
"""More than what is kept by instant on purpose, of the latest rounds alone."""
USERS_MAX = 20


def ask_the_same(number: int) -> Criterion:
    return did("buy", days=30)


def ask_in_other_windows(number: int) -> Criterion:
    return did("buy", days=30 + number)


def ask_of_all_time(number: int) -> Criterion:
    return did("buy")


@contextmanager
def without_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def of_the_engine() -> Counter[str]:
    """How many objects there are of each class of the engine."""
    kinds = Counter(str(type(each)) for each in gc.get_objects())
    return Counter({kind: count for kind, count in kinds.items() if kind.startswith("<class 'engine.")})


@pytest.mark.parametrize("criteria", [ask_the_same, ask_in_other_windows, ask_of_all_time])
@pytest.mark.parametrize("users", [0, 1, USERS_MAX])
def test_a_round_leaves_no_objects(site: Site, criteria: Callable[[int], Criterion], users: int) -> None:
    for number in range(JOURNEYS):
        journey = site.engine.journeys.create_journey(ACCOUNT, f"j{number}", Journey(name=""))
        site.connect(site.add("m", criteria(number), journey=journey.name), f"c{number}")

    def round_(number: int) -> None:
        if users:
            new = [(f"u{number}-{at}", "buy") for at in range(users)]
            site.send(new, time=site.clock.now)
        site.engine.live.refresh_all()
        site.clock.now += MICROS_PER_SECOND // 4

    # The first calculate the audiences and look ahead.
    for number in range(4):
        round_(number)
    with without_collections():
        before = of_the_engine()
        for number in range(4, 4 + ROUNDS):
            round_(number)
        more = {name: count for name, count in (of_the_engine() - before).items() if count >= ROUNDS}
        assert more == {}
        assert gc.collect() == 0
