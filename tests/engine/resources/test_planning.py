"""Criteria are checked before the lock on writes is taken, and again if the account changes meanwhile."""

from __future__ import annotations

import pkgutil
import threading
from collections.abc import Callable
from typing import Any

import pytest

from engine.criteria.model import AllOf, Audience, Event
from engine.errors import AlreadyExists, EtagMismatch, InvalidInput, NotFound
from engine.resources.documents import JourneyDocument, MilestoneDocument
from engine.resources.records import Journey, Milestone, MilestoneKind, Workspace, etag_of
from tests.engine.site import ACCOUNT, APP, JOURNEY, WEB, Site, did

WAIT_S = 30.0
CRITERIA = AllOf(criteria=(did("buy"),))


def new(criteria: Any = CRITERIA) -> Milestone:
    return Milestone(name="", audience="", kind=MilestoneKind.CRITERIA, criteria=criteria)


def create(site: Site) -> None:
    site.engine.milestones.create_milestone(JOURNEY, "late", new())


def update(site: Site, etag: str = "") -> None:
    record = Milestone(name=f"{JOURNEY}/milestones/first", audience="", criteria=CRITERIA)
    site.engine.milestones.update_milestone(record, {"criteria"}, etag)


def update_inputs(site: Site) -> None:
    site.engine.journeys.update_journey(Journey(name=JOURNEY, inputs=(WEB,)), {"inputs"})


def apply(site: Site) -> None:
    milestones = (MilestoneDocument(id="late", criteria=CRITERIA),)
    site.engine.applying.apply(ACCOUNT, JourneyDocument(journey="main", milestones=milestones))


def move(site: Site) -> None:
    site.engine.milestones.move_milestone(f"{JOURNEY}/milestones/first", 0)


def delete(site: Site) -> None:
    site.engine.milestones.delete_milestone(f"{JOURNEY}/milestones/first")


def delete_input(site: Site) -> None:
    site.engine.deletion.delete_input(APP)


CHECK = "engine.resources.criteria.validate"
WRITES: list[tuple[Callable[[Site], None], str]] = [
    (create, CHECK),
    (update, CHECK),
    (update_inputs, CHECK),
    (apply, CHECK),
    (move, "engine.resources.milestone_tree.made_of"),
    (delete, "engine.resources.milestone_tree.audiences_in"),
    (delete_input, "engine.resources.deletion.inputs_in"),
]
"""A write, and a function that it calls for each of the account's criteria."""


@pytest.fixture
def site_(site: Site) -> Site:
    site.add("first", did("visit"))
    return site


def while_checking(
    monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object], check: str = CHECK
) -> list[int]:
    """Runs something in another thread during the first check of criteria. Returns the checks so far."""
    checked: list[int] = []
    checks = pkgutil.resolve_name(check)

    def checking(*args: Any) -> Any:
        checked.append(1)
        if len(checked) == 1:
            other = threading.Thread(target=happens)
            other.start()
            other.join(WAIT_S)
            assert not other.is_alive()
        return checks(*args)

    monkeypatch.setattr(check, checking)
    return checked


@pytest.mark.parametrize(("write", "check"), WRITES)
def test_others_write_while_criteria_are_checked(
    site_: Site, write: Callable[[Site], None], check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = site_.engine.accounts
    accounts.create_account("other", accounts.get_account(ACCOUNT))
    checked = while_checking(
        monkeypatch, lambda: accounts.create_workspace("accounts/other", "w", Workspace(name="")), check
    )
    write(site_)
    assert accounts.get_workspace("accounts/other/workspaces/w").name
    assert len(checked) == 1


@pytest.mark.parametrize(("write", "check"), WRITES)
def test_criteria_are_checked_again_when_the_account_changes(
    site_: Site, write: Callable[[Site], None], check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = while_checking(
        monkeypatch, lambda: site_.engine.accounts.create_workspace(ACCOUNT, "w", Workspace(name="")), check
    )
    write(site_)
    assert len(checked) == 2


def test_a_plan_that_no_longer_holds_is_not_used(site_: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    milestones = site_.engine.milestones
    with monkeypatch.context() as during:
        while_checking(during, lambda: milestones.create_milestone(JOURNEY, "late", new()))
        with pytest.raises(AlreadyExists):
            create(site_)
    etag = etag_of(milestones.get_milestone(f"{JOURNEY}/milestones/first"))
    renamed = Milestone(name=f"{JOURNEY}/milestones/first", audience="", display_name="Renamed")
    with monkeypatch.context() as during:
        while_checking(during, lambda: milestones.update_milestone(renamed, {"display_name"}))
        with pytest.raises(EtagMismatch):
            update(site_, etag)
    with monkeypatch.context() as during:
        while_checking(during, lambda: milestones.delete_milestone(renamed.name))
        with pytest.raises(NotFound):
            update(site_)
    assert milestones.get_milestone(f"{JOURNEY}/milestones/late").position == 0


def test_an_audience_deleted_meanwhile_is_a_fault(site_: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    milestones = site_.engine.milestones
    named = milestones.get_milestone(f"{JOURNEY}/milestones/first").audience
    while_checking(monkeypatch, lambda: milestones.delete_milestone(f"{JOURNEY}/milestones/first"))
    with pytest.raises(InvalidInput) as refused:
        milestones.create_milestone(JOURNEY, "late", new(Audience(name=named)))
    assert refused.value.reason == "INVALID_CRITERIA"


def test_a_repeated_request_is_answered_though_its_criteria_no_longer_hold(site_: Site) -> None:
    milestones = site_.engine.milestones
    named = milestones.get_milestone(f"{JOURNEY}/milestones/first").audience
    criteria = Audience(name=named)
    first = milestones.create_milestone(JOURNEY, "late", new(criteria), "request")
    milestones.update_milestone(
        Milestone(name=first.record.name, audience="", criteria=Event(name="buy")), {"criteria"}
    )
    milestones.delete_milestone(f"{JOURNEY}/milestones/first")
    again = milestones.create_milestone(JOURNEY, "late", new(criteria), "request")
    assert again.record == first.record
