"""`milepost store` with a service and on directories: plain text and exit status."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key
from milepost import Client
from milepost.cli.app import app
from milepost.outputs import WebhookOutput
from milepost.v1.data_pb2 import Event
from milepost.v1.ingest_service_pb2 import IngestEventsRequest
from tests.cli_runner import CliRunner
from tests.engine.backends.local.storage.test_upgrade import ARCHIVE as OLD_STORE
from tests.harness import ACCOUNT, INPUT, Serving, serving
from tests.service.test_store_upkeep import EVENTS, NOON, USERS, fill
from tests.stores import settle

SECRET = "whsec_" + "A" * 32


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store", access_log="none") as running:
        fill(running)
        yield running


def run(*arguments: str | Path, target: str = "") -> Result:
    command = ["store", *map(str, arguments), *(["--target", target] if target else [])]
    return CliRunner().invoke(app, command)


def facts(result: Result) -> dict[str, list[str]]:
    """The cells of each line, two spaces apart, by the first of them; of two such lines the first."""
    assert result.exit_code == 0, result.output
    lines = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    return {first: rest for first, *rest in reversed(lines)}


def test_figures_of_a_service_and_of_its_directory(service: Serving, tmp_path: Path) -> None:
    online = facts(run("stats", target=service.address))
    assert (online["users"], online["events"]) == ([str(USERS)], [str(EVENTS)])
    assert online["profiles"][0] == str(USERS)
    assert online["index"][3] == "256.0 GiB"
    made = run("backup", "first", target=service.address)
    directory = made.stdout.split("  ")[0]
    assert made.exit_code == 0
    offline = facts(run("stats", "--data", directory))
    assert online["revision"][0].startswith(f"{offline['revision'][0]}.")
    same = ("store", "users", "events", "profiles", "resources")
    assert {name: offline[name] for name in same} == {name: online[name] for name in same}


def test_sound_store_is_reported_sound(service: Serving) -> None:
    result = run("verify", target=service.address)
    assert result.exit_code == 0, result.output
    assert facts(result)["PROFILE"] == ["profiles", str(USERS), facts(result)["PROFILE"][2], "0"]
    assert re.fullmatch(
        r"sound, as of revision [0-9a-f]+\.[0-9a-f]+\.[0-9a-f]+", result.stdout.splitlines()[-1]
    )


def test_every_fault_is_reported_with_status_1(service: Serving, tmp_path: Path) -> None:
    directory = Path(run("backup", "first", target=service.address).stdout.split("  ")[0])
    environment = Environment(directory / "index")
    with environment.writing() as txn:
        assert txn.delete_prefix(key(Family.USER_BLOCK, 1)) == 1
        txn.put(key(Family.PROFILE, 1, 0, 0), b"\xc1")
    environment.close()
    result = run("verify", "--data", directory)
    assert result.exit_code == 1
    faults = [line for line in result.stdout.splitlines() if line.startswith("fault: ")]
    of_users = [line.removeprefix("fault: USER_BLOCK ") for line in faults if "USER_BLOCK" in line]
    assert of_users[0] == "1/1: of the run are missing"
    assert sum(int(line.split()[2]) for line in of_users[1:]) == USERS
    assert [line for line in faults if line.startswith("fault: PROFILE 1/0/0: cannot be decoded")] != []
    assert result.stdout.splitlines()[-1].startswith(f"{len(faults)} faults, as of revision ")


def test_a_restore_names_the_outputs_that_lack_the_key_of_their_secrets(
    service: Serving, tmp_path: Path
) -> None:
    names = [f"accounts/shop/outputs/hook-{index:02}" for index in range(21)]
    with Client(service.address, account="shop") as client:
        client.ensure_account()
        for name in names:
            client.create_output(name.rsplit("/", 1)[-1], WebhookOutput(url="https://h", secret=SECRET))
    directory = run("backup", "first", target=service.address).stdout.split("  ")[0]
    restored = run("restore", directory, "--data", tmp_path / "restored")
    assert restored.exit_code == 0, restored.output
    file = tmp_path / "restored" / "secrets.key"
    assert restored.stdout.splitlines()[2:] == [
        f"copy the key file to {file}, or give these outputs their secrets again:",
        *(f"  {name}" for name in names[:20]),
        "  and 1 more",
    ]


def test_a_backup_is_restored_and_compacted(service: Serving, tmp_path: Path) -> None:
    directory = run("backup", "first", target=service.address).stdout.split("  ")[0]
    assert run("backup", "first", target=service.address).exit_code == 1
    restored = run("restore", directory, "--data", tmp_path / "restored")
    assert restored.exit_code == 0, restored.output
    first, second = restored.stdout.splitlines()
    assert first == f"restored {USERS} users and {EVENTS} events into {tmp_path / 'restored'}"
    store = facts(run("stats", "--data", tmp_path / "restored"))["store"][0]
    assert second.startswith(f"the store is now {store}")
    again = run("restore", directory, "--data", tmp_path / "restored")
    refused = (
        f"milepost: {tmp_path / 'restored'} already holds a store; restore into an empty or a new directory\n"
    )
    assert (again.exit_code, again.stderr) == (1, refused)
    compacted = run("compact", "--data", tmp_path / "restored")
    assert compacted.exit_code == 0, compacted.output
    assert re.fullmatch(r"[0-9.]+ \w+ before, [0-9.]+ \w+ now\n", compacted.stdout)


def test_an_old_store_is_upgraded(tmp_path: Path) -> None:
    with tarfile.open(OLD_STORE) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    (tmp_path / "old" / "lock").touch()
    refused = run("stats", "--data", tmp_path / "old")
    assert refused.exit_code == 1
    assert "format version 5; this build reads 6" in refused.stderr
    assert run("upgrade", "--data", tmp_path / "old").stdout == "rewrote log and index as format version 6\n"
    again = run("upgrade", "--data", tmp_path / "old")
    assert again.stdout == "nothing to do: the store has format version 6\n"
    assert run("verify", "--data", tmp_path / "old").exit_code == 0
    assert run("upgrade", "--data", tmp_path / "missing").exit_code == 1


def test_directory_is_verified_while_the_service_writes_to_it(service: Serving, tmp_path: Path) -> None:
    """In another process, while events arrive and are checkpointed: always one consistent state."""
    stop = threading.Event()

    def write() -> None:
        number = EVENTS
        while not stop.is_set():
            number += 1
            event = Event(time=NOON, user_id=f"user-{number}", name="buy", event_id=str(number))
            service.ingest.IngestEvents(
                IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=[event], request_id=f"more-{number}")
            )
            if number % 10 == 0:
                settle(service.application.engine.backend)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            command = [sys.executable, "-c", "from milepost.cli import main; main()"]
            flags = ["store", "verify", "--data", str(tmp_path / "store")]
            found = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
            assert (found.returncode, found.stderr) == (0, ""), found.stdout
    finally:
        stop.set()
        writer.join()


def test_invalid_store_commands_print_the_reason(service: Serving, tmp_path: Path) -> None:
    for arguments, message in (
        (("verify", "--data", tmp_path / "nothing"), f"there is no store in {tmp_path / 'nothing'}"),
        (("stats", "--data", tmp_path / "nothing"), f"there is no store in {tmp_path / 'nothing'}"),
        (("compact", "--data", tmp_path / "store"), "another process owns the store in"),
    ):
        refused = run(*arguments)
        assert refused.exit_code == 1
        assert refused.stderr.startswith(f"milepost: {message}")
        assert "Traceback" not in refused.output
