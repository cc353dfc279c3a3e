"""The methods for the server and its store, against a real service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from milepost import Client, errors, make_event
from milepost.v1.admin_service_pb2 import CLOCK_STATE_SETTLED
from milepost.values import to_datetime


def test_figures_of_the_server_and_of_its_store(client: Client) -> None:
    client.ensure_input("shop", "web")
    before = client.get_server_info()
    client.ingest_events([make_event("ann", "buy", datetime.now(UTC))], input="shop/web")
    info, stats = client.get_server_info(), client.get_store_stats()
    assert (info.users - before.users, info.events - before.events) == (1, 1)
    assert (info.store_id, info.users, info.events) == (stats.store_id, stats.users, stats.events)
    assert [file.name for file in stats.files] == ["index", "log"]


def test_a_backup_is_a_new_directory(client: Client) -> None:
    made = client.create_backup("first")
    assert Path(made.directory).name == "first"
    assert Path(made.directory).is_dir()
    assert made.revision
    with pytest.raises(errors.AlreadyExists):
        client.create_backup("first", timeout=60)
    assert list(client.list_backups()) == [made.backup]
    client.delete_backup("first")
    assert list(client.list_backups()) == []
    with pytest.raises(errors.NotFound):
        client.delete_backup(made.backup.name)


def test_the_clock_is_confirmed_by_another(client: Client) -> None:
    assert client.get_clock().state == CLOCK_STATE_SETTLED
    assert client.confirm_clock().state == CLOCK_STATE_SETTLED
    now = datetime.now(UTC)
    assert abs(to_datetime(client.get_clock().time) - now) < timedelta(minutes=1)
    with pytest.raises(errors.FailedPrecondition):
        client.confirm_clock(now + timedelta(minutes=6))


def test_a_sound_store_is_verified(client: Client) -> None:
    findings = list(client.verify_store())
    assert [each.WhichOneof("finding") for each in findings][-1] == "result"
    result = findings[-1].result
    assert result.faults == 0
    assert result.revision
