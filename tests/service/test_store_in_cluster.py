"""A service whose users' data are in a ClickHouse server, on a real port and in a process that is killed."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.backends.registry import shown_url
from milepost import Client, make_event
from milepost.criteria import event, event_attribute
from milepost.errors import FailedPrecondition, MilepostError
from milepost.outputs import FileOutput
from milepost.v1.audience_service_pb2 import MembershipSnapshot, SnapshotEnd
from tests.engine.backends.clickhouse.databases import databases_on
from tests.engine.backends.clickhouse.servers import own_servers, reason_to_skip, started
from tests.harness import eventually
from tests.service.test_command import command, ready_address, run

BATCH_USERS = 20
BATCHES = 80
CALLERS = 6
KILLED_AFTER = 16


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a store of its own."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("cluster")
    with started(directory, 0 if own_servers() else 1, 1) as servers:
        shards = own_servers() or [[server.address for server in shard] for shard in servers]
        with databases_on(shards) as databases:
            yield databases.url(directory / "gateway")


@contextmanager
def serving(directory: Path, store: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service over the store, and its address; killed at the end."""
    flags = ("--store", store, "--data-dir", str(directory), "--port", "0", "--refresh-interval-ms", "200")
    with (directory / "log").open("a") as log:
        child = subprocess.Popen(command(*flags), stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield child, ready_address(child)
        finally:
            child.kill()
            child.communicate()


def send(client: Client, batch: int) -> None:
    """One buyer in five spends enough; sent again, a batch changes nothing."""
    now = datetime.now(UTC)
    client.ingest_events(
        [
            make_event(
                f"user-{batch}-{number}",
                "buy",
                now - timedelta(hours=1),
                {"price": 100 if number % 5 == 0 else 10},
                event_id=f"{batch}-{number}",
            )
            for number in range(BATCH_USERS)
        ],
        input="shop/web",
    )


def test_a_service_over_a_cluster_survives_a_kill_amid_writes(tmp_path: Path, store: str) -> None:
    # 1. Sizes, checks and members, by plans over the cluster.
    with serving(tmp_path, store) as (child, address), Client(address, account="acme") as client:
        client.ensure_account()
        client.ensure_input("shop", "web")
        send(client, 0)
        client.ensure_journey("buyers", display_name="Buyers")
        client.ensure_milestone("buyers", "keen", criteria=event("buy").sum("price") >= 100)
        client.ensure_milestone(
            "buyers", "others", criteria=event("buy", where=event_attribute("price") > 0).happened()
        )
        assert client.estimate("buyers/keen", exact=True).size.users == BATCH_USERS // 5
        assert client.estimate("buyers/others", exact=True).size.users == BATCH_USERS * 4 // 5
        assert client.check("user-0-0", "buyers/keen")
        assert not client.check("user-0-1", "buyers/keen")
        # 2. An activated audience: what the gateway keeps itself.
        files = client.ensure_output("files", FileOutput(path="files"))
        client.ensure_connection("keen-buyers", target="buyers/keen", output=files.name)
        client.activate_connection("keen-buyers")
        assert eventually(lambda: watched(client)) == {f"user-0-{n}" for n in range(0, BATCH_USERS, 5)}
        # 3. The process is killed while batches of several callers come in, which share inserts.
        acknowledged: list[int] = []

        def write(caller: int) -> None:
            with suppress(MilepostError), Client(address, account="acme") as writer:
                for batch in range(1 + caller, BATCHES, CALLERS):
                    send(writer, batch)
                    acknowledged.append(batch)

        writing = [threading.Thread(target=write, args=(caller,)) for caller in range(CALLERS)]
        for each in writing:
            each.start()
        eventually(lambda: len(acknowledged) >= KILLED_AFTER)
        child.send_signal(signal.SIGKILL)
        child.wait()
        for each in writing:
            each.join()
    assert KILLED_AFTER <= len(acknowledged) < BATCHES - 1
    # 4. Every acknowledged batch is there, whole and once. Those in flight may be; sent again they are.
    with serving(tmp_path, store) as (_, address), Client(address, account="acme") as client:
        keen, of_batch = client.estimate("buyers/keen", exact=True).size.users, BATCH_USERS // 5
        assert keen % of_batch == 0
        assert 1 + len(acknowledged) <= keen // of_batch <= 1 + len(acknowledged) + CALLERS
        assert all(client.check(f"user-{batch}-0", "buyers/keen") for batch in acknowledged)
        for batch in range(BATCHES):
            send(client, batch)
        assert client.estimate("buyers/keen", exact=True).size.users == BATCHES * BATCH_USERS // 5
        assert client.estimate("buyers/others", exact=True).size.users == BATCHES * BATCH_USERS * 4 // 5
        expected = {f"user-{batch}-{n}" for batch in range(BATCHES) for n in range(0, BATCH_USERS, 5)}
        eventually(lambda: watched(client) == expected)
        assert client.check("user-3-5", "buyers/keen")
        assert not client.check("user-3-6", "buyers/keen")


def watched(client: Client) -> set[str]:
    """The members of the activated audience, as a watch begins with them."""
    members: set[str] = set()
    with suppress(FailedPrecondition):
        for message in client.watch("buyers/keen"):
            if isinstance(message, MembershipSnapshot):
                members.update(message.user_ids)
            if isinstance(message, SnapshotEnd):
                break
    return members


def test_a_url_that_names_no_directory_is_refused() -> None:
    failed = run("--store", "clickhouse://gate:secret@127.0.0.1:1", "--port", "0")
    assert failed.returncode != 0
    assert "gateway=DIR" in failed.stderr
    assert "secret" not in failed.stderr


def test_the_password_of_a_url_is_not_shown() -> None:
    shown = shown_url("clickhouse://gate:sec%40ret@one:1+two:2,three:3?gateway=data")
    assert shown == "clickhouse://gate:***@one:1+two:2,three:3?gateway=data"
    assert shown_url("local:data") == "local:data"
