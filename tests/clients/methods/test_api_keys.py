"""The methods for API keys, against a real service that needs them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from milepost import Client, errors
from milepost.v1.account_pb2 import SCOPE_ADMIN, SCOPE_INGEST, SCOPE_OPERATOR, SCOPE_READ
from milepost.values import to_datetime
from tests.harness import Serving, serving


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store", access_log="none") as made:
        yield made


@pytest.fixture
def operator(locked: Serving) -> Iterator[Client]:
    with Client(locked.address) as anyone:
        secret = anyone.create_api_key("first", operator=True, display_name="First").secret
    with Client(locked.address, account="acme", api_key=secret) as made:
        made.ensure_account()
        yield made


def test_keys_of_operators_and_of_an_account(locked: Serving, operator: Client) -> None:
    [first] = operator.list_api_keys(operator=True)
    assert (first.name, list(first.scopes), first.display_name) == (
        "apiKeys/first",
        [SCOPE_OPERATOR],
        "First",
    )
    assert operator.get_api_key("apiKeys/first") == first
    expire_time = datetime(2999, 1, 1, tzinfo=UTC)
    made = operator.create_api_key(
        "app",
        scopes=[SCOPE_READ],
        expire_time=expire_time,
        calls_per_second_max=7,
        in_flight_max=3,
        request_id="once",
    )
    assert made.api_key.name == operator.api_key_name("app") == "accounts/acme/apiKeys/app"
    assert to_datetime(made.api_key.expire_time) == expire_time
    assert (made.api_key.calls_per_second_max, made.api_key.in_flight_max) == (7, 3)
    assert operator.create_api_key("app", scopes=[SCOPE_READ], request_id="once").secret == ""
    assert [each.name for each in operator.list_api_keys()] == [made.api_key.name]
    with Client(locked.address, account="acme", api_key=made.secret) as app:
        assert app.get_account().name == "accounts/acme"
        with pytest.raises(errors.PermissionDenied) as refused:
            app.ensure_workspace("shop", display_name="Shop")
        assert refused.value.metadata == {"scope": "SCOPE_MANAGE"}
    with Client(locked.address, account="acme") as anyone, pytest.raises(errors.Unauthenticated):
        anyone.get_account()


def test_a_key_is_changed_rotated_and_deleted(locked: Serving, operator: Client) -> None:
    made = operator.create_api_key("app", scopes=[SCOPE_READ])
    changed = operator.update_api_key("app", scopes=[SCOPE_INGEST, SCOPE_ADMIN], display_name="App")
    assert (list(changed.scopes), changed.display_name) == ([SCOPE_INGEST, SCOPE_ADMIN], "App")
    with pytest.raises(errors.Aborted):
        operator.update_api_key("app", display_name="Late", etag=made.api_key.etag)
    rotated = operator.rotate_api_key("app", overlap=timedelta(hours=1), etag=changed.etag)
    assert rotated.secret not in ("", made.secret)
    for secret in (made.secret, rotated.secret):
        with Client(locked.address, account="acme", api_key=secret) as app:
            assert app.get_account().name == "accounts/acme"
    operator.rotate_api_key("app", overlap=timedelta())
    with (
        Client(locked.address, account="acme", api_key=rotated.secret) as app,
        pytest.raises(errors.Unauthenticated, match="unknown, deleted or expired"),
    ):
        app.get_account()
    operator.delete_api_key("app")
    with pytest.raises(errors.NotFound):
        operator.get_api_key("app")
