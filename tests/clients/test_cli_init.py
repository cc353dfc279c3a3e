"""`milepost init` on stores that no service has open, and a service that listens to other machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs
from typer.testing import Result

from milepost import Client, errors
from milepost.cli.app import app
from service.auth import listening
from tests.cli_runner import CliRunner
from tests.harness import serving


def init(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["init", *map(str, arguments)])


def secret_of(result: Result) -> str:
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    secret: str = answer["secret"]
    return secret


def test_a_new_store_gets_its_first_key_once(tmp_path: Path) -> None:
    store = tmp_path / "store"
    result = init("--data-dir", store, "--groups", "4")
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[:-1])
    assert (lines["key"], lines["scopes"], lines["expires"]) == ("apiKeys/operator", "operator", "never")
    again = init("--data-dir", store)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "has an operator key already" in again.stderr
    other = secret_of(init("--data-dir", store, "--another", "second", "--json"))
    with serving(store, access_log="none", groups=4) as service:
        for secret in (lines["secret"], other):
            with Client(service.address, account="acme", api_key=secret) as client:
                assert client.ensure_account().name == "accounts/acme"
        with Client(service.address, account="acme") as client, pytest.raises(errors.Unauthenticated):
            client.get_account()
        busy = init("--data-dir", store, "--another", "third")
        assert busy.exit_code == 1
        assert "another process owns the store" in busy.stderr


def test_an_existing_store_gets_its_first_key(tmp_path: Path) -> None:
    with serving(tmp_path / "store", access_log="none") as service:
        service.create_inputs()
    secret = secret_of(init("--data-dir", tmp_path / "store", "--json"))
    with (
        serving(tmp_path / "store", access_log="none") as service,
        Client(service.address, account="a", api_key=secret) as client,
    ):
        assert client.get_account().name == "accounts/a"


def test_an_invalid_setting_is_a_usage_error(tmp_path: Path) -> None:
    result = init("--data-dir", tmp_path / "store", "--groups", "many")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--groups" in result.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("localhost", True),
        ("[::1]", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("[::]", False),
        ("192.168.1.7", False),
        ("8.8.8.8", False),
        ("no-such-host.invalid", False),
    ],
)
def test_which_addresses_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert listening.is_loopback(host) is loopback


COMMAND = [sys.executable, "-P", "-m", "service", "--data-dir", "store", "--port", "0"]


def test_without_keys_the_service_refuses_to_listen_to_other_machines(tmp_path: Path) -> None:
    command = [*COMMAND, "--host", "0.0.0.0"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "refusing to listen on 0.0.0.0 without API keys" in refused.stderr
    assert "`milepost init --data-dir store`" in refused.stderr
    assert "--insecure-listen true" in refused.stderr


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes 127.0.0.1 for an address that other machines reach."""
    monkeypatch.setattr(listening, "is_loopback", lambda host: False)


@pytest.mark.usefixtures("reachable")
def test_it_listens_to_other_machines_when_it_is_told_or_has_keys(tmp_path: Path) -> None:
    with pytest.raises(listening.CannotListen), serving(tmp_path / "store"):
        pass
    with (
        capture_logs() as logs,
        serving(tmp_path / "store", access_log="none", insecure_listen=True) as service,
    ):
        service.create_inputs()
    assert "no API key is needed, and other machines can reach the port" in {each["event"] for each in logs}
    secret = secret_of(init("--data-dir", tmp_path / "store", "--json"))
    with (
        capture_logs() as logs,
        serving(tmp_path / "store", access_log="none") as service,
        Client(service.address, account="a", api_key=secret) as client,
    ):
        assert client.get_account().name == "accounts/a"
    assert [each["event"] for each in logs if "unencrypted" in each["event"]] == [
        "API keys travel unencrypted: set --tls-cert-file and --tls-key-file"
    ]


def test_a_channel_of_no_key_is_refused(tmp_path: Path) -> None:
    init("--data-dir", tmp_path / "store")
    with serving(tmp_path / "store", access_log="none") as service, pytest.raises(grpc.RpcError) as refused:
        service.create_inputs()
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
