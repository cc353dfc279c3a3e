"""A service reads the events of an input from a table of others: mapped by a command, activated, watched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.backends.clickhouse.server import Address
from milepost import Client, make_event
from milepost.cli.app import app
from milepost.criteria import event
from milepost.errors import InvalidArgument
from milepost.outputs import FileOutput
from tests.cli_runner import CliRunner
from tests.conformance.site import event as row
from tests.engine.backends.clickhouse.databases import databases_on
from tests.engine.backends.clickhouse.servers import own_servers, reason_to_skip, started
from tests.engine.backends.clickhouse.theirs import their_table
from tests.harness import eventually
from tests.service.test_store_in_cluster import serving, watched

ORDERS = "accounts/acme/workspaces/shop/inputs/orders"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[list[Address]]]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    own = own_servers()
    with started(tmp_path_factory.mktemp("servers"), 0 if own else 1, 1) as servers:
        yield own or [[server.address for server in shard] for shard in servers]


def test_rows_of_a_table_enter_and_leave_an_activated_audience(
    tmp_path: Path, shards: list[list[Address]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILEPOST_FOLLOW_S", "0.05")
    now = int(time.time() * 1_000_000)
    with databases_on(shards) as databases, their_table(shards) as theirs:
        url = databases.url(tmp_path / "gateway")
        mapping = ["store", "map-events", ORDERS, "--store", url]
        # 1. The input has to be there, and no service.
        with serving(tmp_path, url) as (_, address), Client(address, account="acme") as client:
            client.ensure_account()
            client.ensure_input("shop", "web")
            refused = CliRunner().invoke(app, [*mapping, "--table", theirs.table])
            assert refused.exit_code == 1
            client.ensure_input("shop", "orders")
            client.ensure_journey("buyers", display_name="Buyers")
            client.ensure_milestone("buyers", "keen", criteria=event("buy").count() >= 2)
            files = client.ensure_output("files", FileOutput(path="files"))
            client.ensure_connection("keen-buyers", target="buyers/keen", output=files.name)
            client.activate_connection("keen-buyers")
        assert CliRunner().invoke(app, mapping).exit_code == 2
        mapped = CliRunner().invoke(app, [*mapping, "--table", theirs.table, "--settle-s", "0"])
        assert mapped.exit_code == 0, mapped.output
        assert f"{ORDERS} is read from {theirs.table} from revision " in mapped.stdout
        # 2. Rows count with the events that are sent, and cannot be sent.
        theirs.insert([row(user, time=now, through=ORDERS) for user in ("ada", "ada", "bob", "cyd")])
        with serving(tmp_path, url) as (_, address), Client(address, account="acme") as client:
            assert eventually(lambda: watched(client)) == {"ada"}
            client.ingest_events(
                [make_event("bob", "buy", datetime.now(UTC), event_id="1")], input="shop/web"
            )
            eventually(lambda: watched(client) == {"ada", "bob"})
            with pytest.raises(InvalidArgument, match="read in place"):
                client.ingest_events([make_event("cyd", "buy", datetime.now(UTC))], input="shop/orders")
            theirs.insert([row("cyd", time=now, through=ORDERS)])
            eventually(lambda: watched(client) == {"ada", "bob", "cyd"})
            client.alias_user("ada", "bob")
            client.delete_users(["cyd"])
            eventually(lambda: watched(client) == {"bob"})
            assert client.estimate("buyers/keen", exact=True).size.users == 1
        unmapped = CliRunner().invoke(app, ["store", "unmap-events", ORDERS, "--store", url])
        assert unmapped.exit_code == 0, unmapped.output
        # 3. Without them nobody has enough.
        with serving(tmp_path, url) as (_, address), Client(address, account="acme") as client:
            eventually(lambda: watched(client) == set())
            assert client.estimate("buyers/keen", exact=True).size.users == 0
