"""Sizes that readers answer are those of the evaluator, with everything that was acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.audiences.model import Estimate, Exact, SavedTarget
from engine.audiences.outlooks import ASKED_MAX, Outlooks
from engine.audiences.sampling import exact_size
from engine.criteria.model import AllOf, AnyOf, UserAttribute
from engine.criteria.model import Equals as Is
from engine.resources.records import Milestone
from tests.engine.backends.local.serving.test_serving import BOUGHT_LATELY, GOLD, Served, edit, reading
from tests.engine.backends.local.serving.world import STEPS, World
from tests.engine.site import ACCOUNT, did


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    site = Served(tmp_path / "store")
    yield site
    site.close()


def agree_on_sizes(site: Served, milestones: list[Milestone]) -> tuple[int, int]:
    """Checks every size against the evaluator. Returns how many counts and estimates there were."""
    counts = estimates = 0
    for name in (name for milestone in milestones for name in (milestone.audience, milestone.name)):
        count = reading(site).count(name)
        if count is not None:
            counts += 1
            truth = site.engine.sizes.count(name, as_of=count.as_of)
            assert (count.users, count.population) == (truth.users, truth.population), name
            assert count.revision == site.backend.revision()
        found = reading(site).estimate(name)
        if found is not None:
            estimates += 1
            exact = site.engine.sizes.estimate(SavedTarget(name), precision=Exact(), as_of=found.count.as_of)
            assert exact.labelled == ()
            assert (exact.size, exact.population, exact.draw) == (
                exact_size(found.count.users),
                found.count.population,
                exact_size(found.draw),
            ), name
            assert exact.warnings == () or (found.draw == 0 and found.has_before)
        # What is asked for here is looked at by the next round.
        site.engine.sizes.estimate(SavedTarget(name))
    return counts, estimates


def test_every_size_is_the_evaluators(served: Served) -> None:
    world = World(served)
    counts = estimates = 0
    for _ in range(STEPS):
        world.step()
        if world.rng.random() < 0.5:
            served.refresh()
        found = agree_on_sizes(served, world.milestones)
        counts, estimates = counts + found[0], estimates + found[1]
    served.refresh()
    served.refresh()
    assert agree_on_sizes(served, world.milestones)[0] == 2 * len(world.milestones)
    assert counts > STEPS
    assert estimates > STEPS / 2


def test_a_size_is_answered_while_others_write_what_no_criterion_reads(served: Served) -> None:
    gold = served.add("gold", GOLD)
    served.update("ada", {"plan": "gold"})
    served.connect(gold)
    served.refresh()
    for number in range(20):
        served.send([("ada", f"unread-{number}")])
        count = reading(served).count(gold.audience)
        assert count is not None
        assert (count.users, count.population, count.revision) == (1, 1, served.backend.revision())


def test_a_size_is_handed_on_from_a_write_to_the_next_round(served: Served) -> None:
    gold = served.add("gold", GOLD)
    served.update("ada", {"plan": "gold"})
    served.connect(gold)
    served.refresh()
    for users, write in enumerate(("bob", "eve"), 2):
        served.update(write, {"plan": "gold"})
        assert reading(served).count(gold.audience) is None
        served.refresh()
        count = reading(served).count(gold.audience)
        assert count is not None
        assert (count.users, count.population) == (users, users)
    # A user that comes to the journey without data of its criteria.
    served.send([("sam", "unread")])
    assert reading(served).count(gold.audience) is None
    served.refresh()
    count = reading(served).count(gold.audience)
    assert count is not None
    assert (count.users, count.population) == (3, 4)


def test_erased_users_are_in_no_size(served: Served) -> None:
    gold = served.add("gold", GOLD)
    for user in ("ada", "bob"):
        served.update(user, {"plan": "gold"})
    served.connect(gold)
    served.refresh()
    served.backend.erase(ACCOUNT, ["ada"])
    assert reading(served).count(gold.audience) is None
    served.refresh()
    count = reading(served).count(gold.audience)
    assert count is not None
    assert (count.users, count.population) == (1, 1)
    # One that is in no audience, and of whom only the population tells.
    served.send([("sam", "visit")])
    served.refresh()
    served.backend.erase(ACCOUNT, ["sam"])
    served.refresh()
    count = reading(served).count(gold.audience)
    assert count is not None
    assert (count.users, count.population) == (1, 1)


def test_an_edit_ends_sizes_at_once(served: Served) -> None:
    gold = served.add("gold", GOLD)
    served.update("ada", {"plan": "gold"})
    served.connect(gold)
    served.refresh()
    edit(served, gold, did("visit"))
    assert reading(served).count(gold.audience) is None
    assert reading(served).estimate(gold.audience) is None
    served.refresh()
    count = reading(served).count(gold.audience)
    assert count is not None
    assert count.users == 0


def answered(site: Served, milestone: Milestone) -> Estimate:
    """The writer's estimate, after which readers may answer, or not."""
    answer = site.engine.sizes.estimate(SavedTarget(milestone.name))
    # They look once nothing has been written for a round.
    site.refresh()
    site.refresh()
    return answer


def test_only_estimates_without_warnings_and_labels_are_answered(served: Served) -> None:
    served.update("ada", {"plan": "gold"})
    served.update("bob", {"plan": "tin"})
    plain = served.add("plain", GOLD)
    labelled = served.add(
        "labelled", AllOf(criteria=(UserAttribute(key="plan", test=Is("gold"), label="gold"),))
    )
    warned = served.add("warned", AnyOf(criteria=(GOLD, did("never"))))
    for number, milestone in enumerate((plain, labelled, warned)):
        served.connect(milestone, f"c{number}")
    served.refresh()
    assert [answered(served, each).warnings != () for each in (plain, labelled, warned)] == [
        False,
        False,
        True,
    ]
    assert reading(served).estimate(plain.name) is not None
    assert reading(served).estimate(labelled.name) is None
    assert reading(served).estimate(warned.name) is None
    # Now there is such an event.
    served.send([("eve", "never")])
    answered(served, warned)
    assert answered(served, warned).warnings == ()
    assert reading(served).estimate(warned.name) is not None
    # And now there is none any more.
    served.backend.erase(ACCOUNT, ["eve"])
    served.refresh()
    assert reading(served).estimate(warned.name) is None
    assert [each.reason for each in answered(served, warned).warnings] == ["NEVER_SEEN"]


def test_an_estimate_needs_the_audiences_that_draw_before(served: Served) -> None:
    served.update("ada", {"plan": "gold"})
    served.update("bob", {"plan": "tin"})
    first, rest = served.add("first", GOLD), served.add("rest", None)
    served.connect(rest, "rest")
    served.refresh()
    answered(served, rest)
    assert reading(served).count(rest.name) is not None
    assert reading(served).estimate(rest.name) is None
    served.connect(first, "first")
    served.refresh()
    answered(served, rest)
    found = reading(served).estimate(rest.name)
    assert found is not None
    assert (found.count.users, found.draw, found.count.population, found.has_before) == (1, 1, 2, True)


def test_outlooks_are_kept_only_for_what_was_asked_lately(served: Served) -> None:
    now = [0.0]
    gold = served.add("gold", GOLD)
    served.update("ada", {"plan": "gold"})
    outlooks = Outlooks(served.engine.sizes.outlooks._targets, served.backend, lambda: now[0])
    milestones = {gold.audience: gold.name}
    assert outlooks.of(milestones, served.clock.now, 1, 1) == {}
    outlooks.asked(gold.name)
    assert outlooks.of(milestones, served.clock.now, 1, 1) == {}
    assert outlooks.of(milestones, served.clock.now, 1, 1).keys() == {gold.audience}
    assert outlooks.of(milestones, served.clock.now, 1, 2) == {}
    assert outlooks.of(milestones, served.clock.now, 1, 2).keys() == {gold.audience}
    now[0] = 61.0
    assert outlooks.of(milestones, served.clock.now, 1, 1) == {}
    outlooks.asked(gold.name)
    for number in range(ASKED_MAX):
        outlooks.asked(f"other-{number}")
    assert outlooks.of(milestones, served.clock.now, 1, 1) == {}


def test_windows_hold_for_the_instant_of_their_round(served: Served) -> None:
    lately = served.add("lately", BOUGHT_LATELY)
    served.send([("ada", "buy")])
    served.connect(lately)
    served.refresh()
    reached = served.clock.now
    served.clock.now += 1_500_000
    served.tick()
    count = reading(served).count(lately.audience)
    assert count is not None
    assert (count.users, count.as_of) == (1, reached)
