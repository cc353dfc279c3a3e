"""A store in memory: everything works, and nothing stays, however the service ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from engine.backends.local import offline
from engine.backends.local.storage import in_memory
from engine.backends.local.storage.in_memory import PREFIX
from engine.backends.registry import IN_MEMORY, open_backend
from milepost.v1 import (
    account_service_pb2,
    admin_service_pb2,
    connection_pb2,
    connection_service_pb2,
    criteria_pb2,
    data_pb2,
    ingest_service_pb2,
    journey_pb2,
    journey_service_pb2,
)
from service.command import KEEPS_NOTHING
from tests.harness import ACCOUNT, INPUT, Stubs, eventually, refusal_of, serving

ANN = data_pb2.UserUpdate(user_id="ann")
CONNECTION = f"{ACCOUNT}/connections/c"
LOGGED = "the store is in memory: all data are gone when this process ends"


@contextmanager
def process(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service in memory in a separate process, and its address; killed at the end if it still runs."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "service", "--memory", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
    )
    assert child.stdout is not None
    try:
        address = child.stdout.readline().strip().removeprefix("ready address=")
        assert child.stdout.readline() == f"{KEEPS_NOTHING}\n"
        yield child, address
    finally:
        child.kill()
        child.communicate()


def files_of(pid: int) -> list[str]:
    """What the descriptors of a process lead to in stores in memory."""
    links = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
    return [link for link in links if PREFIX in link]


def write_ann(stubs: Stubs) -> None:
    stubs.create_inputs()
    answer = stubs.ingest.UpsertUsers(
        ingest_service_pb2.UpsertUsersRequest(parent=ACCOUNT, input=INPUT, users=[ANN])
    )
    assert answer.accepted == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_however_the_service_ends(tmp_path: Path, number: signal.Signals) -> None:
    with process(tmp_path) as (child, address):
        stubs = Stubs(address)
        write_ann(stubs)
        info = stubs.admin.GetServerInfo(admin_service_pb2.GetServerInfoRequest())
        assert info.users == 1
        files = files_of(child.pid)
        assert {Path(file).name for file in files} == {
            "lock (deleted)",
            "data.mdb (deleted)",
            "lock.mdb (deleted)",
        }
        child.send_signal(number)
        _, logged = child.communicate()
        assert LOGGED in logged
        stubs.close()
    stores = {
        file.partition(PREFIX)[0] + PREFIX + file.partition(PREFIX)[2].partition("/")[0] for file in files
    }
    assert [store for store in stores if Path(store).exists()] == []
    assert list(tmp_path.iterdir()) == []


def test_each_start_begins_without_data(tmp_path: Path) -> None:
    for _ in range(2):
        with serving(tmp_path, memory=True) as service:
            listed = service.accounts.ListAccounts(account_service_pb2.ListAccountsRequest())
            assert len(listed.accounts) == 0
            write_ann(service)
    assert list(tmp_path.iterdir()) == []


def connected(service: Stubs) -> None:
    """Ann's audience, connected to a file output and active."""
    everyone = criteria_pb2.Criteria(all_of=criteria_pb2.CriteriaList())
    milestone = journey_pb2.MilestoneDocument(id="all", criteria=everyone)
    document = journey_pb2.JourneyDocument(journey="j", milestones=[milestone])
    service.journeys.ApplyJourney(journey_service_pb2.ApplyJourneyRequest(parent=ACCOUNT, document=document))
    service.connections.CreateOutput(
        connection_service_pb2.CreateOutputRequest(
            parent=ACCOUNT,
            output_id="o",
            output=connection_pb2.Output(file=connection_pb2.FileOutput(path="exports")),
        )
    )
    get = journey_service_pb2.GetMilestoneRequest(name=f"{ACCOUNT}/journeys/j/milestones/all")
    audience = service.journeys.GetMilestone(get).milestone.audience
    service.connections.CreateConnection(
        connection_service_pb2.CreateConnectionRequest(
            parent=ACCOUNT,
            connection_id="c",
            connection=connection_pb2.Connection(audience=audience, output=f"{ACCOUNT}/outputs/o"),
        )
    )
    service.connections.ActivateConnection(connection_service_pb2.ActivateConnectionRequest(name=CONNECTION))


def test_files_are_written_only_where_an_option_says(tmp_path: Path) -> None:
    outputs, backups = tmp_path / "outputs", tmp_path / "backups"
    with serving(tmp_path / "store", memory=True, output_dir=outputs, backup_dir=backups) as service:
        write_ann(service)
        connected(service)
        file = outputs / "a" / "exports" / "c.ndjson"
        assert eventually(lambda: file.exists() and '"user_id":"ann"' in file.read_text("utf-8"))
        request = admin_service_pb2.CreateBackupRequest(backup_id="b")
        assert Path(service.admin.CreateBackup(request).directory) == backups / "b"
    assert not (tmp_path / "store").exists()
    offline.restore(backups / "b", tmp_path / "restored")
    restored = open_backend(f"local:{tmp_path / 'restored'}")
    assert restored.stats().users == 1
    restored.close()


def test_files_without_a_directory_are_refused_with_the_option(tmp_path: Path) -> None:
    with serving(tmp_path, memory=True) as service:
        write_ann(service)
        connected(service)
        get = connection_service_pb2.GetConnectionRequest(name=CONNECTION)
        fault = eventually(lambda: service.connections.GetConnection(get).connection.fault)
        assert "--output-dir" in fault
        found = service.connections.GetConnection(get).connection
        assert found.state == connection_pb2.CONNECTION_STATE_FAULTED
        refused = refusal_of(service.admin.CreateBackup, admin_service_pb2.CreateBackupRequest(backup_id="b"))
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "BACKUP_DIRECTORY_UNUSABLE",
        )
        assert "--backup-dir" in refused.message
        assert len(service.admin.ListBackups(admin_service_pb2.ListBackupsRequest()).backups) == 0
        missing = refusal_of(
            service.admin.DeleteBackup, admin_service_pb2.DeleteBackupRequest(name="backups/b")
        )
        assert missing.code is grpc.StatusCode.NOT_FOUND


def test_readers_serve_a_store_in_memory(tmp_path: Path) -> None:
    with serving(tmp_path, memory=True, readers=1) as service:
        write_ann(service)
        info = service.admin.GetServerInfo(admin_service_pb2.GetServerInfoRequest())
        assert info.users == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_file_system_in_memory_temporary_files_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_memory, "MEMORY_DIRECTORY", tmp_path / "missing")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    backend = open_backend(IN_MEMORY)
    try:
        mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
        assert len([name for name in mapped if name.startswith(str(tmp_path))]) == 4
        assert list(tmp_path.iterdir()) == []
    finally:
        backend.close()
