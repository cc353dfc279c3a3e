"""Deleting inputs, workspaces and accounts: what stands in the way, and that nothing of them comes back."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from engine import Engine, write_gate
from engine.backends.base.upkeep import StoreFault
from engine.backends.local.backend import LocalBackend
from engine.criteria.model import Event, Step
from engine.criteria.model import Sequence as EventSequence
from engine.errors import (
    EtagMismatch,
    FailedPrecondition,
    InvalidInput,
    LimitExceeded,
    NotFound,
    StoreUnavailable,
)
from engine.resources.leftovers import Leftovers
from engine.resources.records import Account, Input, Journey, Record, Workspace, etag_of
from engine.values import MICROS_PER_DAY
from tests.engine.site import ACCOUNT, APP, JOURNEY, NOW, OUTPUT, WEB, WORKSPACE, Site, did, event
from tests.stores import crash_image


def refusal(call: Callable[[], object]) -> FailedPrecondition:
    """The refusal of a call."""
    with pytest.raises(FailedPrecondition) as refused:
        call()
    return refused.value


def delete_inputs(site: Site) -> None:
    for name in (WEB, APP):
        site.engine.deletion.delete_input(name)


def delete_account(site: Site) -> None:
    """Deletes the account and all that the site made in it; its users are gone."""
    engine = site.engine
    engine.journeys.delete_journey(JOURNEY)
    engine.connections.delete_output(OUTPUT)
    delete_inputs(site)
    engine.deletion.delete_workspace(WORKSPACE)
    engine.deletion.delete_account(ACCOUNT, "acme")


def documents(engine: Engine, text: str = "acme") -> list[str]:
    """The keys of all documents that mention a text."""
    return [key for key, value in engine.backend.documents.scan("") if text in key or text.encode() in value]


def faults(site: Site) -> list[StoreFault]:
    assert isinstance(site.backend, LocalBackend)
    return [finding for finding in site.backend.verify() if isinstance(finding, StoreFault)]


# --- inputs -------------------------------------------------------------------------------------------------


def test_an_input_without_users_is_deleted(site: Site) -> None:
    site.send([("ada", "buy")], input=APP)
    site.engine.deletion.delete_input(WEB)
    with pytest.raises(NotFound):
        site.engine.accounts.get_input(WEB)
    assert [each.name for each in site.engine.accounts.list_inputs(WORKSPACE).items] == [APP]
    with pytest.raises(InvalidInput, match=f"input '{WEB}' does not exist"):
        site.send([("ada", "buy")])
    with pytest.raises(NotFound):
        site.engine.deletion.delete_input(WEB)


def test_users_stand_in_the_way_until_they_are_erased(site: Site) -> None:
    # 1. Users by event, by update and by alias all belong to the input.
    site.send([("ada", "buy"), ("bob", "buy")])
    site.update("cleo", {"plan": "gold"})
    site.engine.ingest.alias(ACCOUNT, "ada", "dora")
    refused = refusal(lambda: site.engine.deletion.delete_input(WEB))
    assert refused.message == (
        f"{WEB} is not empty: 3 of the account's users belong to it; erase them with DeleteUsers first"
    )
    assert (refused.reason, refused.metadata) == ("INPUT_NOT_EMPTY", {"users": "3"})
    # 2. Erasing some is not enough.
    site.engine.ingest.erase(ACCOUNT, ["ada", "bob"])
    assert refusal(lambda: site.engine.deletion.delete_input(WEB)).metadata == {"users": "1"}
    site.engine.ingest.erase(ACCOUNT, ["cleo"])
    site.engine.deletion.delete_input(WEB)


def test_users_stay_when_their_events_are_removed(site: Site) -> None:
    record = Account(name=ACCOUNT, event_retention=30 * MICROS_PER_DAY)
    site.engine.accounts.update_account(record, ["event_retention"])
    site.send([("ada", "buy")], time=NOW - 29 * MICROS_PER_DAY)
    site.clock.now += 10 * MICROS_PER_DAY
    site.engine.retention.run()
    assert site.engine.backend.event_names(ACCOUNT, limit=9) == ()
    assert refusal(lambda: site.engine.deletion.delete_input(WEB)).reason == "INPUT_NOT_EMPTY"
    site.engine.ingest.erase(ACCOUNT, ["ada"])
    site.engine.deletion.delete_input(WEB)


def test_journeys_and_criteria_that_name_an_input_stand_in_the_way(site: Site) -> None:
    journeys = site.engine.journeys
    selecting = journeys.create_journey(ACCOUNT, "selecting", Journey(name="", inputs=(WEB, APP))).name
    bought = site.add("bought", Event(name="buy", inputs=(WEB,)))
    steps = (Step(name="visit"), Step(name="buy", inputs=(APP, WEB)))
    followed = site.add("followed", EventSequence(steps=steps))
    refused = refusal(lambda: site.engine.deletion.delete_input(WEB))
    assert refused.message == (
        f"{WEB} is named by journeys {selecting}; milestones {bought.name}, {followed.name}; "
        "take it out of their inputs and criteria first"
    )
    assert refused.reason == "INPUT_IN_USE"
    assert refused.metadata == {"journeys": selecting, "milestones": f"{bought.name},{followed.name}"}
    # Past versions go on naming it: they are history.
    journeys.update_journey(Journey(name=selecting, inputs=(APP,)), ["inputs"])
    for milestone in (bought, followed):
        site.engine.milestones.delete_milestone(milestone.name)
    site.engine.deletion.delete_input(WEB)
    past = site.engine.versions.get(f"{selecting}/versions/1")
    assert past.document is not None
    assert past.document.inputs == (WEB, APP)


def test_journeys_over_all_inputs_go_on_without_it(site: Site) -> None:
    site.send([("ada", "buy")], input=APP)
    bought = site.add("bought", did("buy"))
    site.connect(bought)
    site.engine.live.refresh_all()
    site.engine.deletion.delete_input(WEB)
    site.send([("bob", "buy")], input=APP)
    site.engine.live.refresh_all()
    assert site.stored(bought) == site.members(bought) == {"ada", "bob"}


@pytest.mark.parametrize("restart", [False, True])
def test_an_input_created_again_starts_anew(site: Site, restart: bool) -> None:
    engine = site.engine
    engine.accounts.create_input(WORKSPACE, "new", Input(name="", display_name="Old"), "request")
    new = f"{WORKSPACE}/inputs/new"
    rows = [event("ada", "buy", input=new, event_id="1")]
    engine.ingest.events(ACCOUNT, rows)
    engine.ingest.erase(ACCOUNT, ["ada"])
    engine.deletion.delete_input(new)
    if restart:
        engine.close()
        site.open()
    again = site.engine.accounts.create_input(WORKSPACE, "new", Input(name="", display_name="New"), "request")
    assert again.display_name == "New"
    assert site.engine.ingest.events(ACCOUNT, rows).duplicates == 0
    assert site.engine.backend.universe_size(ACCOUNT, [new]) == 1
    assert faults(site) == []


# --- workspaces ---------------------------------------------------------------------------------------------


def test_a_workspace_goes_after_its_inputs(site: Site) -> None:
    refused = refusal(lambda: site.engine.deletion.delete_workspace(WORKSPACE))
    assert refused.message == f"{WORKSPACE} has inputs: {APP},{WEB}; delete them first"
    assert (refused.reason, refused.metadata) == ("WORKSPACE_NOT_EMPTY", {"inputs": f"{APP},{WEB}"})
    site.update("ada", {"plan": "gold"})
    site.engine.ingest.erase(ACCOUNT, ["ada"])
    delete_inputs(site)
    site.engine.deletion.delete_workspace(WORKSPACE)
    assert site.engine.accounts.list_workspaces(ACCOUNT).items == ()
    # Its attributes are not known in the next one of that name.
    site.engine.accounts.create_workspace(ACCOUNT, "shop", Workspace(name=""))
    assert site.engine.catalog.attributes(ACCOUNT).items == ()


# --- accounts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("confirmation", ["", "accounts/acme", "Acme", "rival"])
def test_an_account_needs_its_id_as_confirmation(site: Site, confirmation: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        site.engine.deletion.delete_account(ACCOUNT, confirmation)
    (violation,) = refused.value.violations
    assert violation.field == "confirmation"
    assert violation.description == "must repeat the id of the account, 'acme'"
    assert site.engine.accounts.get_account(ACCOUNT).name == ACCOUNT


def test_everything_that_stands_in_the_way_of_an_account_is_named(site: Site) -> None:
    connection = site.connect(site.add("bought", did("buy")))
    site.engine.connections.deactivate(connection.name)
    refused = refusal(lambda: site.engine.deletion.delete_account(ACCOUNT, "acme"))
    assert refused.message == (
        f"{ACCOUNT} is not empty: it has journeys {JOURNEY}; connections {connection.name}; "
        f"outputs {OUTPUT}; workspaces {WORKSPACE}; delete them first"
    )
    assert refused.reason == "ACCOUNT_NOT_EMPTY"
    assert refused.metadata == {
        "journeys": JOURNEY,
        "connections": connection.name,
        "outputs": OUTPUT,
        "workspaces": WORKSPACE,
    }


@pytest.mark.parametrize("restart", [False, True])
def test_nothing_of_a_deleted_account_comes_back(site: Site, restart: bool) -> None:
    # 1. An account with stored memberships, histories, versions, measured times, event ids and request ids.
    engine = site.engine
    engine.accounts.create_workspace(ACCOUNT, "extra", Workspace(name="", display_name="Old"), "request")
    rows = [event("ada", "buy", event_id="1"), event("bob", "visit")]
    engine.ingest.events(ACCOUNT, rows, "batch")
    site.update("ada", {"plan": "gold"})
    engine.ingest.alias(ACCOUNT, "alias", "ada")
    bought = site.add("bought", did("buy"))
    connection = site.connect(bought)
    engine.live.refresh_all()
    engine.accounts.update_account(Account(name=ACCOUNT, event_retention=MICROS_PER_DAY), ["event_retention"])
    site.clock.now += 10 * MICROS_PER_DAY
    engine.retention.run()
    assert engine.retention.exact_since(ACCOUNT) > 0
    # 2. All of it is taken away, and the account with it.
    engine.connections.delete_connection(connection.name)
    engine.milestones.delete_milestone(bought.name)
    engine.ingest.erase(ACCOUNT, ["ada", "bob"])
    engine.deletion.delete_workspace(f"{ACCOUNT}/workspaces/extra")
    assert "closing/" in "".join(documents(engine))
    delete_account(site)
    assert documents(engine) == []
    assert engine.accounts.list_accounts().items == ()
    assert engine.retention.exact_since(ACCOUNT) == 0
    if restart:
        engine.close()
        site.open()
        engine = site.engine
    # 3. The next one of that name knows nothing of it.
    engine.accounts.create_account("acme", Account(name=""))
    assert engine.catalog.event_names(ACCOUNT).items == ()
    assert engine.catalog.attributes(ACCOUNT).items == ()
    again = engine.accounts.create_workspace(
        ACCOUNT, "extra", Workspace(name="", display_name="New"), "request"
    )
    assert again.display_name == "New"
    engine.accounts.create_workspace(ACCOUNT, "shop", Workspace(name=""))
    engine.accounts.create_input(WORKSPACE, "web", Input(name=""))
    taken = engine.ingest.events(ACCOUNT, [*rows, event("alias", "buy", time=site.clock.now)], "batch")
    assert (taken.accepted, taken.duplicates, taken.repeated) == (3, 0, False)
    engine.journeys.create_journey(ACCOUNT, "main", Journey(name=""))
    assert site.members(site.add("bought", did("buy"))) == {"ada", "alias"}
    assert engine.versions.list(JOURNEY).items[-1].name == f"{JOURNEY}/versions/1"
    assert faults(site) == []
    site.engine.close()
    site.open()
    assert site.engine.backend.stats().users == 3
    assert faults(site) == []


def test_members_that_are_still_leaving_are_not_waited_for(site: Site) -> None:
    # Their connection is: it has exits to deliver.
    site.send([("ada", "buy")])
    bought = site.add("bought", did("buy"))
    connection = site.connect(bought)
    site.engine.live.refresh_all()
    site.engine.milestones.delete_milestone(bought.name)
    site.engine.ingest.erase(ACCOUNT, ["ada"])
    refused = refusal(lambda: delete_account(site))
    assert refused.reason == "OUTPUT_IN_USE"
    assert refused.metadata == {"connections": connection.name}
    assert site.deliver(connection.name) == [("ada", True), ("ada", False)]
    site.engine.live.refresh_all()
    site.engine.journeys.create_journey(ACCOUNT, "main", Journey(name=""))
    delete_account(site)


def test_an_old_etag_is_refused(site: Site) -> None:
    deletion, accounts = site.engine.deletion, site.engine.accounts
    site.engine.journeys.delete_journey(JOURNEY)
    site.engine.connections.delete_output(OUTPUT)
    deletion.delete_input(APP)
    cases: tuple[tuple[Callable[[], Record], Callable[[str], None]], ...] = (
        (lambda: accounts.get_input(WEB), lambda etag: deletion.delete_input(WEB, etag)),
        (lambda: accounts.get_workspace(WORKSPACE), lambda etag: deletion.delete_workspace(WORKSPACE, etag)),
        (lambda: accounts.get_account(ACCOUNT), lambda etag: deletion.delete_account(ACCOUNT, "acme", etag)),
    )
    for read, delete in cases:
        with pytest.raises(EtagMismatch):
            delete("other")
        delete(etag_of(read()))
        with pytest.raises(NotFound):
            delete("")


@pytest.mark.parametrize("name", ["accounts/acme/workspaces/shop", "acme", "accounts/", ""])
def test_a_name_of_another_kind_is_refused(site: Site, name: str) -> None:
    with pytest.raises(InvalidInput):
        site.engine.deletion.delete_input(name)
    with pytest.raises(InvalidInput):
        site.engine.deletion.delete_account(name, "acme")


# --- crashes ------------------------------------------------------------------------------------------------


def prepared(site: Site) -> None:
    """The account is about to be deleted; event id 1 was seen."""
    site.engine.ingest.events(ACCOUNT, [event("ada", "buy", event_id="1")])
    site.engine.ingest.erase(ACCOUNT, ["ada"])


def starts_anew(engine: Engine) -> bool:
    """Creates the account again and sends the event: whether it counts."""
    engine.accounts.create_account("acme", Account(name=""))
    engine.accounts.create_workspace(ACCOUNT, "shop", Workspace(name=""))
    engine.accounts.create_input(WORKSPACE, "web", Input(name=""))
    return engine.ingest.events(ACCOUNT, [event("ada", "buy", event_id="1")]).duplicates == 0


def test_a_crash_between_the_two_steps_leaves_nothing(site: Site, tmp_path: Path) -> None:
    prepared(site)
    with mock.patch.object(Leftovers, "clear"):
        delete_account(site)
    assert [key.partition("/")[0] for key in documents(site.engine)] == ["leftover"] * 4
    crashed = Site.__new__(Site)
    crashed.directory, crashed.clock = crash_image(site.directory, tmp_path / "crashed"), site.clock
    crashed.open()
    assert documents(crashed.engine) == []
    assert starts_anew(crashed.engine)
    assert faults(crashed) == []
    crashed.engine.close()
    # Without a crash the next one of that name clears it.
    assert starts_anew(site.engine)
    assert faults(site) == []


def test_a_store_without_room_deletes_and_clears_later(site: Site) -> None:
    prepared(site)
    full = LimitExceeded("the store is full", reason="STORE_FULL")
    with mock.patch.object(LocalBackend, "forget", side_effect=full):
        delete_account(site)
        with pytest.raises(LimitExceeded):
            site.engine.accounts.create_account("acme", Account(name=""))
        # The engine starts all the same.
        Leftovers.clear_all(site.engine.deletion._leftovers)
    assert site.engine.accounts.list_accounts().items == ()
    assert starts_anew(site.engine)


# --- races --------------------------------------------------------------------------------------------------


class Held:
    """Makes a method wait at its start until it is released."""

    def __init__(self, owner: type, method: str) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        original: Callable[..., Any] = getattr(owner, method)

        def held(*args: Any, **kwargs: Any) -> Any:
            self.reached.set()
            assert self.released.wait(30)
            return original(*args, **kwargs)

        self.patch = mock.patch.object(owner, method, held)


WRITES: dict[str, tuple[str, Callable[[Site], object]]] = {
    "events": ("append", lambda site: site.send([("ada", "buy")])),
    "users": ("append", lambda site: site.update("ada", {"plan": "gold"})),
}


@pytest.mark.parametrize(("method", "write"), WRITES.values(), ids=WRITES)
def test_a_write_that_has_begun_ends_before_a_deletion(
    site: Site, method: str, write: Callable[[Site], object]
) -> None:
    held = Held(LocalBackend, method)
    with held.patch, ThreadPoolExecutor(2) as threads:
        written = threads.submit(write, site)
        assert held.reached.wait(30)
        deleted = threads.submit(site.engine.deletion.delete_input, WEB)
        with pytest.raises(TimeoutError):
            deleted.result(0.3)
        held.released.set()
        written.result(30)
        refused = refusal(lambda: deleted.result(30))
    assert (refused.reason, refused.metadata) == ("INPUT_NOT_EMPTY", {"users": "1"})
    assert site.engine.backend.universe_size(ACCOUNT, [WEB]) == 1


def test_a_deletion_does_not_hold_up_writes_behind_a_long_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_gate, "WRITES_END_S_MAX", 0.1)
    held = Held(LocalBackend, "append")
    with held.patch, ThreadPoolExecutor(1) as threads:
        written = threads.submit(site.send, [("ada", "buy")])
        assert held.reached.wait(30)
        with pytest.raises(StoreUnavailable, match=f"a write to {ACCOUNT} is under way"):
            site.engine.deletion.delete_input(APP)
        held.released.set()
        written.result(30)
    site.send([("bob", "buy")])
    site.engine.deletion.delete_input(APP)


def test_a_write_that_comes_during_a_deletion_ends_after_it(site: Site) -> None:
    held = Held(LocalBackend, "forget")
    with held.patch, ThreadPoolExecutor(2) as threads:
        deleted = threads.submit(site.engine.deletion.delete_input, WEB)
        assert held.reached.wait(30)
        written = threads.submit(site.send, [("ada", "buy")])
        elsewhere = site.engine.accounts.get_account(ACCOUNT)
        with pytest.raises(TimeoutError):
            written.result(0.3)
        held.released.set()
        deleted.result(30)
        with pytest.raises(InvalidInput, match=f"input '{WEB}' does not exist"):
            written.result(30)
    assert elsewhere.name == ACCOUNT
    assert site.engine.backend.stats().users == 0


def test_writers_and_deletions_at_once_leave_whole_states(site: Site) -> None:
    """Writers send while the input is deleted and created again: what was accepted is there or was erased."""
    rounds, writers = 8, 2
    accepted: set[str] = set()
    erased: set[str] = set()
    came, stop = threading.Condition(), threading.Event()

    def write(writer: int) -> None:
        pauses = random.Random(writer)
        for number in itertools.count():
            if stop.wait(pauses.uniform(0, 0.06)):
                return
            user_id = f"{writer}-{number}"
            try:
                site.send([(user_id, "buy")])
            except InvalidInput:
                continue
            with came:
                accepted.add(user_id)
                came.notify_all()

    def is_deleted() -> bool:
        with came:
            gone = accepted - erased
        if gone:
            site.engine.ingest.erase(ACCOUNT, sorted(gone))
            erased.update(gone)
        try:
            site.engine.deletion.delete_input(WEB)
        except FailedPrecondition:
            return False
        return True

    with ThreadPoolExecutor(writers) as threads:
        running = [threads.submit(write, writer) for writer in range(writers)]
        try:
            for _ in range(rounds):
                with came:
                    assert came.wait_for(lambda: accepted - erased, 30)
                while not is_deleted():
                    pass
                # No data is left behind, and none comes while there is no input.
                assert site.engine.backend.universe_size(ACCOUNT, [WEB]) == 0
                site.engine.accounts.create_input(WORKSPACE, "web", Input(name=""))
        finally:
            stop.set()
        for each in running:
            each.result(30)
    users = site.engine.backend.stats().users
    assert users == len(accepted - erased)
    assert site.engine.backend.universe_size(ACCOUNT, [WEB]) == users
    assert faults(site) == []
