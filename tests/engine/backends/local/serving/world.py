"""A world that changes at random, and whose memberships are served."""

from __future__ import annotations

import random

from engine.criteria.model import AllOf
from engine.values import MICROS_PER_SECOND
from tests.engine.backends.local.serving.test_serving import BOUGHT_LATELY, GOLD, USERS, Served, edit
from tests.engine.site import ACCOUNT, APP, did

STEPS = 120


class World:
    """Three activated audiences, one of which depends on time and one draws from another, and steps that
    change users, definitions and the clock, or refresh.
    """

    def __init__(self, site: Served) -> None:
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")
        self.rng = random.Random(seed)
        self.site = site
        self.gold = site.add("gold", GOLD)
        lately = site.add("lately", BOUGHT_LATELY)
        both = site.add("both", AllOf(criteria=(GOLD, did("visit"))), parent=self.gold.name)
        rest = site.add("rest", None)
        self.milestones = [self.gold, lately, both, rest]
        for milestone in self.milestones:
            site.connect(milestone, milestone.name.rpartition("/")[2])

    def step(self) -> None:
        """One change, or a refresh."""
        site, rng = self.site, self.rng
        users = rng.sample(USERS, rng.randint(1, 4))
        match rng.randrange(12):
            case 0 | 1:
                names = ["buy", "visit", "unread"]
                site.send([(user, rng.choice(names)) for user in users], time=site.clock.now)
            case 2:
                plan = rng.choice(["gold", "tin", None])
                site.update(users[0], {"plan": plan}, time=site.clock.now)
            case 3:
                site.backend.erase(ACCOUNT, users[:2])
            case 4 if len(users) > 1 and rng.random() < 0.2:
                site.backend.alias(ACCOUNT, f"alias-{rng.random()}", users[0])
            case 5 if rng.random() < 0.3:
                edit(site, self.gold, rng.choice([GOLD, did("visit"), AllOf(criteria=())]))
            case 6:
                site.clock.now += rng.choice([1, MICROS_PER_SECOND, 7 * MICROS_PER_SECOND])
                site.tick()
            case 7:
                site.send([(users[0], "visit")], time=site.clock.now, input=APP)
            case _:
                site.refresh()
