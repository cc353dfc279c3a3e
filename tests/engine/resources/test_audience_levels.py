"""How deep audiences name each other is limited, whichever write would make them deeper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from engine.audiences.model import SavedTarget
from engine.criteria.model import AnyOf, Audience, Criterion
from engine.errors import FailedPrecondition, InvalidInput
from engine.limits import AUDIENCE_LEVELS_EVALUATED_MAX, AUDIENCE_LEVELS_MAX
from engine.plan import tree
from engine.resources import audience_levels, criteria
from engine.resources.documents import JourneyDocument, MilestoneDocument
from engine.resources.records import Journey, Milestone
from tests.engine.site import ACCOUNT, Site, did


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "store")
    yield site
    site.engine.close()


def named(milestone: Milestone) -> Criterion:
    return Audience(name=milestone.audience)


def journey(site: Site, name: str) -> str:
    return site.engine.journeys.create_journey(ACCOUNT, name, Journey(name="")).name


def chain(site: Site, name: str, levels: int, bottom: Criterion | None = None) -> list[Milestone]:
    """Milestones of journeys of their own, each of which names the audience of the one before."""
    made: list[Milestone] = []
    for level in range(levels + 1):
        asked = named(made[-1]) if made else bottom or did("a")
        made.append(site.add("m", asked, journey=journey(site, f"{name}{level}")))
    return made


def give(site: Site, milestone: Milestone, asked: Criterion) -> None:
    record = msgspec.structs.replace(milestone, criteria=asked)
    site.engine.milestones.update_milestone(record, {"criteria"})


def fields_of(call: Callable[[], object]) -> dict[str, str]:
    with pytest.raises(InvalidInput) as refused:
        call()
    assert refused.value.reason == "INVALID_CRITERIA"
    return {each.field: each.description for each in refused.value.violations}


TOO_DEEP = (
    "names audiences over 16 levels itself, the most allowed; repeat its criteria instead of naming it, or "
    "those of one of the audiences below it"
)


def test_a_level_beyond_the_limit_is_refused_where_it_is_named(site: Site) -> None:
    *_, top = chain(site, "c", AUDIENCE_LEVELS_MAX)
    over = AnyOf(criteria=(did("b"), named(top)))
    fault = f"audience {top.audience!r} {TOO_DEEP}"
    path = "any_of.criteria[1].audience.name"
    assert fields_of(lambda: site.add("over", over)) == {f"milestone.criteria.{path}": fault}
    plain = site.add("plain", did("b"))
    assert fields_of(lambda: give(site, plain, over)) == {f"milestone.criteria.{path}": fault}
    document = JourneyDocument(journey="main", milestones=(MilestoneDocument(id="over", criteria=over),))
    assert fields_of(lambda: site.engine.applying.apply(ACCOUNT, document)) == {
        f"document.milestones[0].criteria.{path}": fault
    }
    # Parents and siblings add no level.
    below = site.add("below", did("b"), top.name, journey=top.name.rpartition("/milestones/")[0])
    assert site.engine.sizes.count(below.name).users == 0
    assert list(fields_of(lambda: site.add("over", named(below)))) == ["milestone.criteria.audience.name"]


def test_an_edit_may_not_raise_those_above_it(site: Site) -> None:
    """1. The lowest of a chain gets a level more: refused. 2. A level less above, and it is accepted."""
    bottom, *_, below, top = chain(site, "c", AUDIENCE_LEVELS_MAX)
    other = site.add("other", did("b"))
    assert fields_of(lambda: give(site, bottom, named(other))) == {
        "milestone.criteria": (
            f"{top.name} would name audiences over more than 16 levels, the most allowed; repeat the "
            "criteria of one of the audiences below it instead of naming it"
        )
    }
    assert site.engine.milestones.get_milestone(bottom.name).criteria == did("a")
    give(site, top, did("b"))
    give(site, bottom, named(other))
    assert fields_of(lambda: give(site, top, named(below)))
    # What names no more levels than before is not in question.
    give(site, bottom, AnyOf(criteria=(did("c"), named(other))))


def test_an_edit_of_a_journey_may_not_raise_its_own_later_milestones(site: Site) -> None:
    """Those after a milestone draw what it leaves, so they have its levels."""
    *_, top = chain(site, "c", AUDIENCE_LEVELS_MAX - 1)
    first = site.add("first", did("a"))
    second = site.add("second", did("b"))
    above = site.add("m", named(second), journey=journey(site, "above"))
    raised = fields_of(lambda: give(site, first, named(top)))
    assert list(raised) == ["milestone.criteria"]
    assert raised["milestone.criteria"].startswith(f"{above.name} would name audiences over more than 16")
    # By a document too, and one that leaves the other out is accepted.
    both = (
        MilestoneDocument(id="first", criteria=named(top)),
        MilestoneDocument(id="second", criteria=did("b")),
    )
    document = JourneyDocument(journey="main", milestones=both)
    assert list(fields_of(lambda: site.engine.applying.apply(ACCOUNT, document))) == ["document.milestones"]
    assert list(fields_of(lambda: site.engine.applying.applied(ACCOUNT, document))) == ["document.milestones"]
    site.engine.milestones.delete_milestone(above.name)
    site.engine.applying.apply(ACCOUNT, document)


def test_a_move_may_not_raise_those_above_it(site: Site) -> None:
    *_, top = chain(site, "c", AUDIENCE_LEVELS_MAX - 1)
    plain, deep = site.add("plain", did("a")), site.add("deep", named(top))
    above = site.add("m", named(plain), journey=journey(site, "above"))
    moved = fields_of(lambda: site.engine.milestones.move_milestone(deep.name, 0))
    assert list(moved) == ["position"]
    assert moved["position"].startswith(f"{above.name} would name audiences over more than 16 levels")
    give(site, above, did("a"))
    site.engine.milestones.move_milestone(deep.name, 0)


def test_a_milestone_before_remaining_users_may_not_raise_those_above_them(site: Site) -> None:
    *_, top = chain(site, "c", AUDIENCE_LEVELS_MAX - 1)
    site.add("first", did("a"))
    rest = site.add("rest", None)
    above = site.add("m", named(rest), journey=journey(site, "above"))
    created = fields_of(lambda: site.add("deep", named(top)))
    assert created["milestone.criteria"].startswith(f"{above.name} would name audiences")
    give(site, above, did("a"))
    site.add("deep", named(top))


@pytest.fixture
def saved_before(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As long as it is not undone, writes are those of a build without the limit."""
    for module in (criteria, audience_levels):
        monkeypatch.setattr(module, "AUDIENCE_LEVELS_MAX", 1 << 30)
    return monkeypatch


def test_deeper_audiences_of_earlier_builds_may_stay(site: Site, saved_before: pytest.MonkeyPatch) -> None:
    bottom, *_, below, top = chain(site, "c", AUDIENCE_LEVELS_MAX + 4)
    saved_before.undo()
    site.send([("u", "a"), ("v", "b")])
    assert site.members(top) == {"u"}
    site.engine.milestones.update_milestone(
        msgspec.structs.replace(top, display_name="Renamed"), {"display_name"}
    )
    give(site, bottom, did("b"))
    give(site, top, AnyOf(criteria=(did("c"), named(below))))
    assert site.members(top) == {"v"}
    other = site.add("other", did("b"))
    assert fields_of(lambda: give(site, bottom, named(other)))
    give(site, top, did("b"))
    assert fields_of(lambda: give(site, top, named(below)))


def test_what_is_too_deep_to_evaluate_says_so(site: Site, saved_before: pytest.MonkeyPatch) -> None:
    made = chain(site, "c", AUDIENCE_LEVELS_EVALUATED_MAX + 1)
    saved_before.undo()
    site.send([("u", "a")])
    *_, deepest, too_deep = made
    sizes, members = site.engine.sizes, site.engine.members
    questions: list[Callable[[Milestone], object]] = [
        lambda asked: sizes.count(asked.name),
        lambda asked: sizes.estimate(SavedTarget(asked.name)),
        lambda asked: sizes.funnel(asked.name.rpartition("/milestones/")[0]),
        lambda asked: sizes.compare([asked.audience, made[0].audience]),
        lambda asked: members.check(asked.audience, "u"),
        lambda asked: members.batch_check(ACCOUNT, ["u"], [asked.audience]),
        lambda asked: members.batch_check(ACCOUNT, [f"u{n}" for n in range(100)], [asked.audience]),
        lambda asked: members.explain_membership(asked.name, "u"),
        lambda asked: members.explain_audience(SavedTarget(asked.name)),
        lambda asked: members.list_members(asked.name),
        site.members,
    ]
    for question in questions:
        question(deepest)
        with pytest.raises(FailedPrecondition, match="over more than 256 levels") as refused:
            question(too_deep)
        assert refused.value.reason == "AUDIENCE_TOO_DEEP"
        assert refused.value.metadata == {"milestone": too_deep.name, "limit": "256"}


def test_a_check_walks_each_milestone_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each level names the one below twice, which doubles the ways and not the work."""
    walked = 0
    real = tree.audiences_in

    def audiences_in(asked: Criterion | None) -> Iterator[str]:
        nonlocal walked
        walked += 1
        return real(asked)

    made = [site.add("m", did("a"), journey=journey(site, "t0"))]
    for level in range(1, AUDIENCE_LEVELS_MAX + 1):
        asked = AnyOf(criteria=(named(made[-1]), named(made[-1])))
        made.append(site.add("m", asked, journey=journey(site, f"t{level}")))
    other = site.add("other", did("b"))
    monkeypatch.setattr(tree, "audiences_in", audiences_in)
    with pytest.raises(InvalidInput, match="16 levels"):
        give(site, made[0], named(other))
    # The criteria, the journey before and after, and all journeys before and after.
    assert AUDIENCE_LEVELS_MAX < walked <= 3 * len(made)
