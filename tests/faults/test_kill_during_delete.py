"""A service killed while an account is created, filled, emptied and deleted over and over.

1. The steps of a cycle are called one after the other until the service is killed with SIGKILL.
2. The service starts again on the same store: the resources are as after the last step that was answered, or
   as after the one that was not.
3. What is left is deleted, and the account created again: the event that was sent before counts as new.
4. In the end the store is sound.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.backends.base.upkeep import StoreFault
from engine.backends.local.offline import verify_store
from milepost import Client, make_event
from milepost.cli.service_process import ServiceProcess
from milepost.errors import MilepostError, NotFound

KILLS = 3
KILL_AFTER_SECONDS_MAX = 0.25

ACCOUNT, WORKSPACE, INPUT = "account", "workspace", "input"
EXISTING = (
    {ACCOUNT},
    {ACCOUNT, WORKSPACE},
    {ACCOUNT, WORKSPACE, INPUT},
    {ACCOUNT, WORKSPACE, INPUT},
    {ACCOUNT, WORKSPACE, INPUT},
    {ACCOUNT, WORKSPACE},
    {ACCOUNT},
    set[str](),
)
"""What exists after each step of a cycle."""


def send(client: Client) -> tuple[int, int]:
    """Sends the event; the numbers taken and recognised."""
    event = make_event("ann", "buy", datetime(2026, 1, 1, tzinfo=UTC), event_id="1")
    sent = client.ingest_events([event], input="shop/web")
    return sent.accepted, sent.duplicates


def steps_of(client: Client) -> tuple[Callable[[], object], ...]:
    """The calls of a cycle."""
    return (
        lambda: client.create_account("acme"),
        lambda: client.create_workspace("shop"),
        lambda: client.create_input("shop", "web"),
        lambda: send(client),
        lambda: client.delete_users(["ann"]),
        lambda: client.delete_input("shop/web"),
        lambda: client.delete_workspace("shop"),
        lambda: client.delete_account("acme", confirmation="acme"),
    )


def existing(client: Client) -> set[str]:
    """What exists now."""
    reads: dict[str, Callable[[], object]] = {
        ACCOUNT: client.get_account,
        WORKSPACE: lambda: client.get_workspace("shop"),
        INPUT: lambda: client.get_input("shop/web"),
    }
    found = set()
    for what, read in reads.items():
        with suppress(NotFound):
            read()
            found.add(what)
    return found


def call_until_killed(client: Client) -> int:
    """Calls steps, cycle after cycle, until one fails; the number of those that were answered."""
    for number in itertools.count():
        try:
            steps_of(client)[number % len(EXISTING)]()
        except NotFound:
            raise
        except MilepostError:
            return number
    raise AssertionError


def test_a_kill_leaves_each_resource_whole_or_gone(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    seed = pytestconfig.getoption("--hypothesis-seed")
    drawn = random.Random(f"{seed}")
    store = tmp_path / "store"
    for _ in range(KILLS):
        # 1. Killed at any moment.
        with ServiceProcess(store) as service, Client(service.target, account="acme", timeout=20) as client:
            killer = threading.Timer(drawn.uniform(0, KILL_AFTER_SECONDS_MAX), service.kill)
            killer.start()
            answered = call_until_killed(client)
            killer.join()
        with ServiceProcess(store) as service, Client(service.target, account="acme") as client:
            # 2. Before or after the step under way.
            before = EXISTING[(answered - 1) % len(EXISTING)] if answered else set[str]()
            assert existing(client) in (before, EXISTING[answered % len(EXISTING)])
            # 3. It starts anew.
            for step in steps_of(client)[4:]:
                with suppress(NotFound):
                    step()
            for step in steps_of(client)[:3]:
                step()
            assert send(client) == (1, 0)
            for step in steps_of(client)[4:]:
                step()
            assert existing(client) == set()
    # 4. Nothing is left that does not fit.
    assert [finding for finding in verify_store(store) if isinstance(finding, StoreFault)] == []
