"""`milepost import` with a key that may only ingest: what it may not see is not said to be missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from milepost import Client
from milepost.cli.app import app
from milepost.v1.account_pb2 import SCOPE_INGEST
from tests.cli_runner import CliRunner
from tests.clients.importing.command import write_csv
from tests.harness import serving


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a service with the account `a` and its input `w/i`, and a key that may ingest."""
    with serving(tmp_path_factory.mktemp("keyed") / "store", access_log="none") as service:
        with Client(service.address, account="a") as client:
            client.ensure_account()
            client.ensure_input("w", "i")
            operator = client.create_api_key("op", operator=True).secret
        with Client(service.address, account="a", api_key=operator) as client:
            secret = client.create_api_key("sender", scopes=[SCOPE_INGEST]).secret
        yield service.address, secret


def run(keyed: tuple[str, str], *arguments: str | Path) -> Result:
    address, secret = keyed
    return CliRunner().invoke(app, [*map(str, arguments), "--target", address, "--api-key", secret])


def test_a_misspelt_input_is_not_an_interruption(keyed: tuple[str, str], tmp_path: Path) -> None:
    file = write_csv(tmp_path / "e.csv", 3)
    refused = run(keyed, "import", file, "--input", "w/j", "--account", "a")
    assert refused.exit_code == 1
    assert "milepost: nothing was imported\n" in refused.stderr
    assert "accounts/a/workspaces/w/inputs/j" in refused.stderr
    assert "continue with" not in refused.stderr
    assert "There are no" not in refused.stderr
    taken = run(keyed, "import", file, "--input", "w/i", "--account", "a")
    assert taken.exit_code == 0, taken.output


def test_what_a_key_may_not_list_is_not_said_to_be_missing(keyed: tuple[str, str], tmp_path: Path) -> None:
    file = write_csv(tmp_path / "e.csv", 3)
    for arguments in (["--input", "w", "--account", "a"], ["--account", "a"]):
        refused = run(keyed, "import", file, *arguments)
        assert refused.exit_code == 2, refused.output
        assert "There are no" not in refused.stderr
    refused = run(keyed, "journey", "list", "--account", "b")
    assert refused.exit_code == 1
    assert "There are no accounts" not in refused.stderr
