"""The log says what happened to keys and who called, and never a secret."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from milepost.v1 import account_pb2, account_service_pb2
from tests.harness import ACCOUNT, eventually
from tests.service.auth.keyed import keyed

NAME = f"{ACCOUNT}/apiKeys/k"


def test_changes_of_keys_are_logged_with_whose_key_made_them(tmp_path: Path) -> None:
    with capture_logs() as logs, keyed(tmp_path / "store") as site:
        site.operator.create_inputs()
        caller = site.with_key(ACCOUNT, "k", "READ", "INGEST")
        accounts = site.operator.accounts
        key = account_pb2.ApiKey(name=NAME, scopes=[account_pb2.SCOPE_READ])
        accounts.UpdateApiKey(account_service_pb2.UpdateApiKeyRequest(api_key=key))
        rotated = accounts.RotateApiKey(account_service_pb2.RotateApiKeyRequest(name=NAME))
        accounts.DeleteApiKey(account_service_pb2.DeleteApiKeyRequest(name=NAME))
    lines = [
        (each["event"], each["api_key"], each.get("scopes"), each["by"])
        for each in logs
        if each["event"].startswith("API key ")
    ]
    assert lines == [
        ("API key created", "apiKeys/op", ["operator"], "anyone: no key is needed"),
        ("API key created", NAME, ["read", "ingest"], "apiKeys/op"),
        ("API key updated", NAME, ["read"], "apiKeys/op"),
        ("API key rotated", NAME, ["read"], "apiKeys/op"),
        ("API key deleted", NAME, None, "apiKeys/op"),
    ]
    text = str(logs)
    assert [
        secret for secret in (site.operator.secret, caller.secret, rotated.secret) if secret in text
    ] == []


@pytest.mark.parametrize(("scope", "code"), [("READ", "OK"), ("INGEST", "PERMISSION_DENIED")])
def test_lines_of_calls_name_the_key_also_of_refused_ones(tmp_path: Path, scope: str, code: str) -> None:
    with capture_logs() as logs, keyed(tmp_path / "store", access_log="all") as site:
        site.operator.create_inputs()
        caller = site.with_key(ACCOUNT, "k", scope)
        request = account_service_pb2.GetAccountRequest(name=ACCOUNT)
        try:
            caller.accounts.GetAccount(request)
        except grpc.RpcError as error:
            assert error.code().name == code  # noqa: PT017
        wanted = ("/milepost.v1.AccountService/GetAccount", code, NAME)
        eventually(
            lambda: wanted in {(each.get("method"), each.get("code"), each.get("api_key")) for each in logs}
        )
        anyone = site.caller("nonsense")
        with pytest.raises(grpc.RpcError):
            anyone.accounts.GetAccount(request)
        eventually(lambda: any(each.get("code") == "UNAUTHENTICATED" for each in logs))
    [unknown] = [each for each in logs if each.get("code") == "UNAUTHENTICATED"]
    assert "api_key" not in unknown
    assert caller.secret not in str(logs)
    assert "nonsense" not in str(logs)
