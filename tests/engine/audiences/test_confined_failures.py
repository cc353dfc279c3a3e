"""An error in one journey's part of a round, whatever it is, fails that journey and no other."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.audiences.live import OLD_CHANGES_MICROS
from engine.audiences.live.failures import LOGGED_AGAIN_S, Failures
from engine.audiences.live.state import JourneyState
from engine.audiences.model import SizeKind, SizeState
from engine.criteria.model import AnyOf, Criterion
from engine.deadline import A_DAY_S
from engine.errors import DataLoss, Defect
from engine.resources.records import Account, Connection, Input, Journey, Milestone, Output, Workspace
from engine.resources.targets import File
from engine.values import MICROS_PER_SECOND
from tests.engine.backends.local.serving.test_serving import Served
from tests.engine.site import ACCOUNT, did, event

BAD, GOOD = "accounts/acme", "accounts/zeta"
SECRET = "u1@example.com"
"""What the injected errors say: it may be about a user, so no caller is told."""

LIVE = "engine.audiences.live"
MEMBERSHIPS = "engine.backends.local.roles.memberships"
STEPS = [
    f"{LIVE}.definitions.Definitions.current",
    f"{LIVE}.definitions.Definitions.needed",
    f"{LIVE}.definitions.Definitions._define",
    f"{LIVE}.closing.Closer.close_deleted",
    f"{LIVE}.closing.Closer.drop_unneeded",
    f"{LIVE}.closing.Closer._record_exits",
    f"{LIVE}.refreshing.JourneyRefresher.due",
    f"{LIVE}.refreshing.JourneyRefresher._whole",
    f"{LIVE}.refreshing.JourneyRefresher._of_some",
    f"{LIVE}.refreshing.JourneyRefresher._look_ahead",
    f"{LIVE}.refreshing.JourneyRefresher._refreshed",
    f"{LIVE}.refreshing.JourneyRefresher._reach",
    f"{LIVE}.trimming.Trimmer.trim",
    f"{LIVE}.trimming.Trimmer.forget_old",
    f"{LIVE}.serving.JourneyServing._served",
    "engine.audiences.history.SizeHistory.roll",
    "engine.audiences.history.SizeHistory.begin",
    "engine.backends.local.serving.writer.LocalServing.serve",
    "engine.backends.local.serving.writer.LocalServing.serve_ids",
    f"{MEMBERSHIPS}.Asked.__init__",
    f"{MEMBERSHIPS}.StoredMemberships._begin",
    f"{MEMBERSHIPS}.StoredMemberships._evaluate",
    f"{MEMBERSHIPS}.StoredMemberships._add",
    f"{MEMBERSHIPS}.StoredMemberships._changes",
    f"{MEMBERSHIPS}.StoredMemberships._expect",
    f"{MEMBERSHIPS}.StoredMemberships._outcome",
    f"{MEMBERSHIPS}.StoredMemberships.opt_in",
    "engine.backends.local.roles.embedded_memberships.EmbeddedMemberships._evaluated",
    "engine.backends.local.membership.store.Memberships.add",
    "engine.backends.local.query.bound_plan.BoundPlan.__init__",
]


def is_about(value: Any, account: str) -> bool:
    """Whether a value names something of the account."""
    if isinstance(value, str):
        return value == account or value.startswith(f"{account}/")
    if isinstance(value, dict):
        return any(is_about(each, account) for each in value)
    if isinstance(value, list | tuple):
        return any(is_about(each, account) for each in value)
    named = (getattr(value, name, "") for name in ("journey", "scope", "account", "name"))
    return any(isinstance(each, str) and is_about(each, account) for each in named)


class Shop:
    """An account with a journey of an activated audience."""

    def __init__(self, site: Served, account: str) -> None:
        self.engine, self.account = site.engine, account
        self.site = site
        if account != ACCOUNT:
            account_id = account.partition("/")[2]
            self.engine.accounts.create_account(account_id, Account(name=""))
            self.engine.accounts.create_workspace(account, "shop", Workspace(name=""))
            self.engine.accounts.create_input(f"{account}/workspaces/shop", "web", Input(name=""))
            self.engine.journeys.create_journey(account, "main", Journey(name=""))
            self.engine.connections.create_output(account, "file", Output(name="", target=File("out")))
        self.journey = f"{account}/journeys/main"
        self.buyers = self.activate("buyers", did("buy", days=1))
        self.gone = self.activate("gone", did("visit"))

    def activate(self, name: str, criteria: Criterion) -> Milestone:
        record = Milestone(name="", audience="", criteria=criteria)
        made = self.engine.milestones.create_milestone(self.journey, name, record).record
        output = f"{self.account}/outputs/file"
        connection = Connection(name="", audience=made.audience, output=output, identities=("email",))
        created = self.engine.connections.create_connection(self.account, name, connection)
        self.engine.connections.activate(created.name)
        return made

    def send(self, user: str, name: str) -> None:
        row = event(user, name, time=self.site.clock.now, input=f"{self.account}/workspaces/shop/inputs/web")
        self.engine.ingest.events(self.account, [row])

    def change(self) -> None:
        """New data, criteria and audiences, and a deleted milestone."""
        self.send("u2", "buy")
        either = AnyOf(criteria=(did("buy", days=1), did("call", days=2)))
        record = msgspec.structs.replace(self.buyers, criteria=either)
        self.engine.milestones.update_milestone(record, {"criteria"})
        self.callers = self.activate("callers", did("call", days=3))
        self.send("u3", "call")
        self.engine.milestones.delete_milestone(self.gone.name)

    def tell(self) -> None:
        """New data alone."""
        self.send("u4", "buy")

    def is_right(self) -> None:
        for milestone in (self.buyers, self.callers):
            members = self.site.members(milestone)
            assert self.site.stored(milestone) == members
            shown = self.engine.sizes.shown(milestone.audience)
            assert (shown.kind, shown.size.state) == (SizeKind.REAL, SizeState.EXACT)
            assert shown.size.users == len(members)
            assert self.engine.live.failure(milestone.audience) == ""


@dataclass
class Fault:
    """What raises, about one account, while it is on."""

    is_on: bool = True
    raised: int = 0


def inject(monkeypatch: pytest.MonkeyPatch, step: str, error: Callable[[], Exception]) -> Fault:
    module, class_, method = step.rsplit(".", 2)
    made = getattr(importlib.import_module(module), class_)
    real, fault = getattr(made, method), Fault()

    def failing(*args: Any, **kwargs: Any) -> Any:
        # The account comes first, or after the round that it is added to.
        if fault.is_on and any(is_about(each, BAD) for each in args[1:3]):
            fault.raised += 1
            raise error()
        return real(*args, **kwargs)

    monkeypatch.setattr(made, method, failing)
    return fault


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "store")
    yield made
    made.close()


@pytest.mark.parametrize("step", STEPS)
def test_an_error_at_any_step_is_confined(site: Served, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """1. Two accounts are in step. 2. Everything changes in both, and a step fails in one: the other goes on,
    and the one says that it failed. 3. It goes on once the step does.
    """
    bad, good = Shop(site, BAD), Shop(site, GOOD)
    for shop in (bad, good):
        shop.send("u1", "buy")
        shop.send("u1", "visit")
    live = site.engine.live
    live.refresh_all()
    fault = inject(monkeypatch, step, lambda: KeyError(SECRET))
    site.clock.now += 2 * OLD_CHANGES_MICROS
    site.tick()
    for shop in (bad, good):
        shop.change()
    failures = live.refresh_timely(A_DAY_S)
    for shop in (bad, good):
        shop.tell()
    failures |= live.refresh_timely(A_DAY_S)
    assert fault.raised, "the step was not run"
    assert list(failures) == [bad.journey]
    good.is_right()
    failure = failures[bad.journey].message
    assert failure == "a fault of the service: KeyError; its log has more"
    assert isinstance(failures[bad.journey].__cause__, KeyError)
    # The users of the one that fails are still answered, by its plans.
    assert site.reader.contains(good.buyers.audience, "u2") is not None
    fault.is_on = False
    assert live.refresh_timely(A_DAY_S) == {}
    site.clock.now += MICROS_PER_SECOND
    assert live.refresh_timely(A_DAY_S) == {}
    for shop in (bad, good):
        shop.is_right()


def test_a_failed_journey_shows_no_size_as_exact(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither here nor at the readers, which hand on what is asked about users with newer data."""
    bad, good = Shop(site, BAD), Shop(site, GOOD)
    live = site.engine.live
    for shop in (bad, good):
        shop.send("u1", "call")
    live.refresh_all()
    assert site.reader.contains(bad.gone.audience, "u1") is not None
    fault = inject(monkeypatch, f"{MEMBERSHIPS}.StoredMemberships._evaluate", RecursionError)
    for shop in (bad, good):
        shop.send("u1", "visit")
    live.refresh_timely(A_DAY_S)
    shown = site.engine.sizes.shown(bad.gone.audience)
    assert (shown.kind, shown.size.state) == (SizeKind.CALCULATING, SizeState.FAILED)
    assert shown.size.failure == "a fault of the service: RecursionError; its log has more"
    assert site.reader.contains(bad.gone.audience, "u1") is None
    assert site.reader.count(bad.gone.audience) is None
    assert site.engine.members.check(bad.gone.audience, "u1").member
    assert site.engine.sizes.shown(good.gone.audience).size.users == 1
    fault.is_on = False
    live.refresh_timely(A_DAY_S)
    assert site.engine.sizes.shown(bad.gone.audience).size.users == 1
    assert site.reader.contains(bad.gone.audience, "u1") is not None


def test_a_failed_journey_waits_while_others_go_on(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = Shop(site, BAD), Shop(site, GOOD)
    live = site.engine.live
    live.refresh_all()
    fault = inject(monkeypatch, f"{LIVE}.refreshing.JourneyRefresher.due", RuntimeError)
    assert list(live.refresh_timely(A_DAY_S, retry_after_s=3_600.0)) == [bad.journey]
    for user in ("u1", "u2", "u3"):
        good.send(user, "visit")
        assert live.refresh_timely(A_DAY_S, retry_after_s=3_600.0) == {}
        assert user in site.stored(good.gone)
    assert fault.raised == 1
    assert live.failure(bad.gone.audience) != ""
    assert list(live.refresh_timely(A_DAY_S, retry_after_s=0.0)) == [bad.journey]


def test_a_failure_is_logged_when_it_changes_and_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    now = 1_000.0
    failures, state = Failures(lambda: now), JourneyState()

    def lines() -> list[tuple[Any, bool]]:
        found = [(vars(each)["error"], bool(each.exc_info)) for each in caplog.records]
        caplog.clear()
        return found

    first, second = Defect(KeyError(SECRET)), DataLoss("a page is gone")
    with caplog.at_level(logging.ERROR):
        for error in (first, Defect(KeyError("another"))):
            failures.note("j", state, error)
        assert lines() == [("a fault of the service: KeyError; its log has more", True)]
        failures.note("j", state, second)
        assert lines() == [("a page is gone", False)]
        now += LOGGED_AGAIN_S - 1
        failures.note("j", state, second)
        assert lines() == []
        now += 1
        failures.note("j", state, second)
        assert lines() == [("a page is gone", False)]
        failures.note("j", state, None)
        assert (state.failure, lines()) == ("", [])
        failures.note("j", state, second)
        assert lines() == [("a page is gone", False)]
