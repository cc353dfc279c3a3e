"""`milepost import` as tests call it, against a server in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import Result

from milepost import Client
from milepost.cli.app import app
from tests.cli_runner import CliRunner

INPUT = "w/i"


class Target:
    """A service and an account of its own in it, with the input `w/i`."""

    def __init__(self, address: str, account: str) -> None:
        self.address = address
        self.account = account
        with self.client() as client:
            client.ensure_account()
            client.ensure_input("w", "i")

    def client(self, account: str = "") -> Client:
        """A client of the account, or of another one."""
        return Client(self.address, account=account or self.account)

    def run(self, *arguments: object, account: str = "", input: str = INPUT, address: str = "") -> Result:
        """`milepost import` with the arguments; `input=""` leaves `--input` out."""
        command = ["import", *map(str, arguments), "--account", account or self.account]
        command += ["--target", address or self.address, *(["--input", input] if input else [])]
        return CliRunner().invoke(app, command)

    def events(self, account: str = "") -> int:
        """The events of the account."""
        with self.client(account) as client:
            return sum(each.events for each in client.list_event_names())


def rejected(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of rejected rows."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_csv(path: Path, rows: int, *, event_ids: bool = False) -> Path:
    """A CSV file with rows of users u0, u1, ... and the amounts 0, 1, ..."""
    lines = ["user_id,name,time,amount" + (",event_id" if event_ids else "")]
    for row in range(rows):
        event_id = f",e{row}" if event_ids else ""
        lines.append(f"u{row},buy,2026-01-01T00:00:{row % 60:02}Z,{row}{event_id}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
