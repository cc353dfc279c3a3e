"""A service's store is moved into a cluster while it serves, and a service over the cluster goes on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from milepost import Client, make_event
from milepost.cli.app import app
from milepost.criteria import event, event_attribute
from milepost.outputs import FileOutput
from tests import harness
from tests.cli_runner import CliRunner
from tests.engine.backends.clickhouse.databases import Databases, databases_on
from tests.engine.backends.clickhouse.servers import own_servers, reason_to_skip, started
from tests.service.test_store_in_cluster import serving, watched

USERS = 20


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    own = own_servers()
    with (
        started(tmp_path_factory.mktemp("servers"), 0 if own else 1, 1) as servers,
        databases_on(own or [[server.address for server in shard] for shard in servers]) as made,
    ):
        yield made


def send(client: Client, first: int, count: int) -> None:
    """A purchase of each user; every fifth spends enough."""
    client.ingest_events(
        [
            make_event(
                f"user-{number}",
                "buy",
                datetime.now(UTC) - timedelta(hours=1),
                {"price": 100 if number % 5 == 0 else 10},
                event_id=str(number),
            )
            for number in range(first, first + count)
        ],
        input="shop/web",
    )


def test_a_service_goes_on_over_a_cluster(tmp_path: Path, databases: Databases) -> None:
    url = databases.url(tmp_path / "gateway")
    # 1. A service with an activated audience is exported while it serves.
    with harness.serving(tmp_path / "embedded") as old, Client(old.address, account="acme") as client:
        client.ensure_account()
        client.ensure_input("shop", "web")
        send(client, 0, USERS)
        client.ensure_journey("buyers", display_name="Buyers")
        client.ensure_milestone("buyers", "keen", criteria=event("buy").sum("price") >= 100)
        others = event("buy", where=event_attribute("price") < 100).happened()
        client.ensure_milestone("buyers", "others", criteria=others)
        files = client.ensure_output("files", FileOutput(path="files"))
        client.ensure_connection("keen-buyers", target="buyers/keen", output=files.name)
        client.activate_connection("keen-buyers")
        keen = {f"user-{number}" for number in range(0, USERS, 5)}
        harness.eventually(lambda: watched(client) == keen)
        export = ["store", "export", "--to", url]
        exported = CliRunner().invoke(app, [*export, "--target", old.address])
        assert exported.exit_code == 0, exported.output
        backup = exported.stdout.split()[1].rstrip(";")
        assert f"{USERS} users, {USERS} rows of events, {USERS} rows of seen: every server" in exported.stdout
        assert client.check("user-0", "buyers/keen")
    # 2. Compared again by itself, it agrees; a second export is refused.
    compared = CliRunner().invoke(app, [*export, backup, "--compare"])
    assert compared.exit_code == 0, compared.output
    assert CliRunner().invoke(app, [*export, backup]).exit_code == 1
    # 3. A service over the cluster answers the same, knows what it has, and goes on.
    with serving(tmp_path, url) as (_, address), Client(address, account="acme") as client:
        assert client.estimate("buyers/keen", exact=True).size.users == len(keen)
        assert client.estimate("buyers/others", exact=True).size.users == USERS - len(keen)
        assert watched(client) == keen
        assert client.check("user-5", "buyers/keen")
        send(client, 0, USERS)
        assert client.estimate("buyers/keen", exact=True).size.users == len(keen)
        send(client, USERS, 5)
        harness.eventually(lambda: watched(client) == keen | {f"user-{USERS}"})


def test_an_export_into_something_else_is_refused(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["store", "export", str(tmp_path), "--to", f"local:{tmp_path}"])
    assert refused.exit_code == 1
    assert "a store of the kind 'local' has no servers" in refused.stderr
