"""Clients open further connections before one has more calls than a service takes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milepost import Client, errors, make_user_update
from milepost._connections import CALLS_MAX, CONNECTIONS_MAX, Connections
from milepost.criteria import attribute
from milepost.outputs import WatchOutput
from milepost.v1.account_service_pb2 import GetAccountRequest
from milepost.v1.audience_service_pb2 import SnapshotEnd
from tests.clients.bridge import async_client
from tests.clients.methods.conftest import Kind
from tests.harness import Serving, eventually, serving

CONNECTION_CALLS = 2 * CALLS_MAX
WATCHES = CONNECTION_CALLS + CALLS_MAX // 2
ACCOUNT = "acme"


@pytest.fixture(params=[Client, async_client], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    """A service with an audience that is watched."""
    with serving(tmp_path / "store", access_log="none", connection_calls_max=CONNECTION_CALLS) as made:
        with Client(made.address, account=ACCOUNT) as client:
            client.ensure_account()
            client.ensure_input("shop", "web")
            client.upsert_users([make_user_update("ann", {"tier": "gold"})], input="shop/web")
            client.ensure_journey("tiers")
            client.ensure_milestone("tiers", "gold", criteria=attribute("tier").equals("gold"))
            client.ensure_output("consumers", WatchOutput())
            client.ensure_connection("gold", target="tiers/gold", output="consumers")
            client.activate_connection("gold")
        yield made


def connections_of(client: Any) -> Connections:
    found: Connections = getattr(client, "_object", client)._plain_channel._connections
    return found


def test_watches_beyond_the_limit_of_a_connection_hold_up_no_call(service: Serving, kind: Kind) -> None:
    """1. One client opens more watches than a connection takes. Each has its snapshot.
    2. Its other calls are answered meanwhile.
    3. Once the watches are closed, its calls go over the first connection again.
    """
    with kind(service.address, account=ACCOUNT) as client:
        watches = [client.watch("tiers/gold") for _ in range(WATCHES)]
        updates = [iter(watch) for watch in watches]
        for each in updates:
            assert any(isinstance(update, SnapshotEnd) for update in each)
        assert client.check("ann", "tiers/gold")
        connections = connections_of(client)
        assert len(connections.calls) == -(-WATCHES // CALLS_MAX)
        assert sum(connections.calls) == WATCHES
        for watch in watches:
            watch.close()
        eventually(lambda: not any(connections.calls))
        assert client.check("ann", "tiers/gold")


def test_a_call_counts_until_it_has_ended_in_any_way(service: Serving, kind: Kind) -> None:
    with kind(service.address, account=ACCOUNT) as client:
        connections = connections_of(client)
        client.check("ann", "tiers/gold")
        with pytest.raises(errors.NotFound):
            client.check("ann", "tiers/silver")
        with pytest.raises(errors.DeadlineExceeded):
            client.with_timeout(-1.0).check("ann", "tiers/gold")
        with pytest.raises(errors.NotFound):
            list(client.export_members("tiers/silver"))
        assert list(client.export_members("tiers/gold")) == ["ann"]
        eventually(lambda: connections.calls == [0])


def test_a_started_call_counts_until_it_has_ended(service: Serving) -> None:
    with Client(service.address, account=ACCOUNT) as client:
        call = client.accounts.GetAccount.future(GetAccountRequest(name=f"accounts/{ACCOUNT}"))
        assert call.result().account.name == f"accounts/{ACCOUNT}"
        eventually(lambda: connections_of(client).calls == [0])


def test_connections_are_filled_in_order_and_shared_evenly_at_last() -> None:
    made = itertools.count()
    connections = Connections(lambda: next(made))
    taken = [connections.begin() for _ in range(CONNECTIONS_MAX * CALLS_MAX)]
    assert taken == sorted(taken)
    assert connections.calls == [CALLS_MAX] * CONNECTIONS_MAX
    beyond = [connections.begin() for _ in range(CONNECTIONS_MAX)]
    assert sorted(beyond) == list(range(CONNECTIONS_MAX))
    for number in (*taken, *beyond):
        connections.end(number)
    assert connections.begin() == 0


def test_a_closed_client_opens_no_connection() -> None:
    made = itertools.count()
    connections = Connections(lambda: next(made))
    assert connections.close() == [0]
    assert {connections.begin() for _ in range(2 * CALLS_MAX)} == {0}
