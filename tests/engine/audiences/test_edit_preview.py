"""The preview of an edit counts what its outputs get once the edit is made."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.criteria.model import Audience
from engine.errors import EtagMismatch, FailedPrecondition, InvalidInput
from engine.resources.documents import JourneyDocument, MilestoneDocument
from engine.resources.milestones import Edited
from engine.resources.records import Journey, Milestone
from tests.engine.site import ACCOUNT, JOURNEY, Site, did

OTHER = f"{ACCOUNT}/journeys/other"


class Shop:
    """Users a0-a9 did a, b5-b14 did b too from 5 on; three siblings, a child, and another journey."""

    def __init__(self, site: Site) -> None:
        self.site = site
        site.send([(f"u{number}", "a") for number in range(10)])
        site.send([(f"u{number}", "b") for number in range(5, 15)])
        site.send([(f"u{number}", "c") for number in range(20)])
        self.first = site.add("first", did("a"))
        self.second = site.add("second", did("b"))
        self.rest = site.add("rest", None)
        self.child = site.add("child", did("c"), self.second.name)
        site.engine.journeys.create_journey(ACCOUNT, "other", Journey(name=""))
        self.named = site.add("named", Audience(name=self.second.audience), journey=OTHER)
        self.connected = {
            each.name: site.connect(each, f"c{at}").name
            for at, each in enumerate((self.first, self.second, self.rest, self.child, self.named))
        }
        site.engine.live.refresh_all()
        self.delivered()

    def delivered(self) -> dict[str, tuple[int, int]]:
        """By milestone: how many entered and exited since the last call."""
        found = {}
        for milestone, connection in self.connected.items():
            changes = self.site.deliver(connection)
            entered = sum(is_entry for _, is_entry in changes)
            if changes:
                found[milestone] = entered, len(changes) - entered
        return found

    def check(self, edited: Edited, make: Callable[[], object], expected: dict[str, tuple[int, int]]) -> None:
        """The preview has these entries and exits, and the edit then makes them."""
        before = {each.audience: each for each in self.site.engine.edit_previews.preview(edited).audiences}
        assert self.delivered() == {}
        found = {each.milestone: (each.entering, each.leaving) for each in before.values()}
        assert {name: counts for name, counts in found.items() if counts != (0, 0)} == expected
        for each in before.values():
            assert each.users_after == each.users_before + each.entering - each.leaving
            assert each.users_before == len(self.site.members(self.site_milestone(each.milestone)))
        make()
        self.site.engine.live.refresh_all()
        assert self.delivered() == expected
        for each in before.values():
            if not each.deleted:
                assert len(self.site.members(self.site_milestone(each.milestone))) == each.users_after

    def site_milestone(self, name: str) -> Milestone:
        return self.site.engine.milestones.get_milestone(name)


@pytest.fixture
def shop(site: Site) -> Shop:
    return Shop(site)


def test_other_criteria(shop: Shop) -> None:
    milestones = shop.site.engine.milestones
    record = Milestone(name=shop.first.name, audience="", criteria=did("b"))
    shop.check(
        milestones.updated(record, {"criteria"}),
        lambda: milestones.update_milestone(record, {"criteria"}),
        {
            shop.first.name: (5, 5),
            shop.second.name: (0, 5),
            shop.rest.name: (5, 0),
            shop.child.name: (0, 5),
            shop.named.name: (0, 5),
        },
    )


def test_another_name_concerns_nobody(shop: Shop) -> None:
    record = Milestone(name=shop.first.name, audience="", display_name="Other")
    edited = shop.site.engine.milestones.updated(record, {"display_name"})
    preview = shop.site.engine.edit_previews.preview(edited)
    assert (preview.audiences, preview.as_of) == ((), shop.site.clock.now)
    assert preview.revision == shop.site.backend.revision()


def test_a_move(shop: Shop) -> None:
    milestones = shop.site.engine.milestones
    shop.check(
        milestones.moved(shop.second.name, 0),
        lambda: milestones.move_milestone(shop.second.name, 0),
        {
            shop.first.name: (0, 5),
            shop.second.name: (5, 0),
            shop.child.name: (5, 0),
            shop.named.name: (5, 0),
        },
    )
    # Only those to its right and left, and what hangs on them, are concerned.
    concerned = shop.site.engine.edit_previews.preview(milestones.moved(shop.second.name, 1))
    assert shop.rest.name in {each.milestone for each in concerned.audiences}


def test_a_deletion(shop: Shop) -> None:
    milestones = shop.site.engine.milestones
    with pytest.raises(FailedPrecondition, match="has children"):
        milestones.deleted(shop.second.name)
    with pytest.raises(EtagMismatch):
        milestones.deleted(shop.first.name, "other")
    edited = milestones.deleted(shop.first.name)
    deleted = {
        each.milestone: each.deleted for each in shop.site.engine.edit_previews.preview(edited).audiences
    }
    assert [name for name, is_deleted in deleted.items() if is_deleted] == [shop.first.name]
    shop.check(
        edited,
        lambda: milestones.delete_milestone(shop.first.name),
        {
            shop.first.name: (0, 10),
            shop.second.name: (5, 0),
            shop.rest.name: (5, 0),
            shop.child.name: (5, 0),
            shop.named.name: (5, 0),
        },
    )


def test_a_document(shop: Shop) -> None:
    applying = shop.site.engine.applying
    child = MilestoneDocument(id="child", criteria=did("a"))
    document = JourneyDocument(
        journey="main",
        milestones=(
            MilestoneDocument(id="new", criteria=did("c", days=400)),
            MilestoneDocument(id="second", criteria=did("b"), children=(child,)),
        ),
    )
    shop.check(
        applying.applied(ACCOUNT, document),
        lambda: applying.apply(ACCOUNT, document),
        {
            shop.first.name: (0, 10),
            shop.second.name: (0, 5),
            shop.rest.name: (0, 5),
            shop.child.name: (0, 5),
            shop.named.name: (0, 5),
        },
    )
    broken = JourneyDocument(journey="main", milestones=(MilestoneDocument(id="?", criteria=did("a")),))
    with pytest.raises(InvalidInput, match=r"document\.milestones"):
        applying.applied(ACCOUNT, broken)


def test_only_activated_audiences_are_listed(shop: Shop) -> None:
    connections = shop.site.engine.connections
    connections.deactivate(shop.connected[shop.rest.name])
    connections.mark_faulted(shop.connected[shop.child.name], "gone")
    edited = shop.site.engine.milestones.deleted(shop.first.name)
    listed = [each.milestone for each in shop.site.engine.edit_previews.preview(edited).audiences]
    assert sorted(listed) == sorted([shop.first.name, shop.second.name, shop.named.name])
    assert edited.tree.name == JOURNEY
