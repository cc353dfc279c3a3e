"""Cache budgets follow the settings, or the number of users."""

from __future__ import annotations

from pathlib import Path

from engine.backends.base import EventRecord
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.criteria.model import EventType

ACCOUNT = "accounts/a"
INPUT = f"{ACCOUNT}/workspaces/w/inputs/i"


def test_budgets_follow_the_users_of_all_accounts(tmp_path: Path) -> None:
    backend = LocalBackend.open(tmp_path)
    assert _budgets(backend) == (25_165_824, 50_331_648)
    for account, users in ((ACCOUNT, 30), ("accounts/b", 7)):
        backend.append(
            account,
            [
                EventRecord(
                    user_id=f"u{n}", input=INPUT, name="n", type=EventType.CUSTOM, time=1, attributes={}
                )
                for n in range(users)
            ],
        )
    backend.checkpoint()
    with_users = (25_165_824 + 37 * 20, 50_331_648 + 37 * 24)
    assert _budgets(backend) == with_users
    backend.close()
    again = LocalBackend.open(tmp_path)
    assert _budgets(again) == with_users
    again.close()


def test_explicit_budgets_are_kept(tmp_path: Path) -> None:
    backend = LocalBackend.open(
        tmp_path, settings=LocalSettings(page_cache_bytes=1_000, column_cache_bytes=2_000)
    )
    assert _budgets(backend) == (1_000, 2_000)
    backend.close()


def test_checkpointed_rows_are_released_immediately(tmp_path: Path) -> None:
    backend = LocalBackend.open(tmp_path)
    backend.append(
        ACCOUNT,
        [EventRecord(user_id="u", input=INPUT, name="n", type=EventType.CUSTOM, time=1, attributes={})],
    )
    account = backend._state._accounts[ACCOUNT]
    (table,) = (table for group in account.tables._groups for table in group.tables.values())
    assert table.fresh_rows == 1
    backend.checkpoint()
    assert table.fresh_rows == 0
    assert table.record.rows == 1
    backend.close()


def _budgets(backend: LocalBackend) -> tuple[int, int]:
    return backend._state.page_cache._bytes_max, backend._state.caches.columns.bytes_max
