"""The commands on the page on operations, run as they stand there, in a shell.

`milepost serve` gets a free port; commands that call the service get its address. Nothing else is changed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from milepost import Client, make_event
from tests.harness import eventually

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")
SECONDS_MAX = 120
PREPARED = """
set -e
PATH="$BIN:$PATH"
milepost() {
    if [ "$1" = serve ]; then
        exec "$BIN/milepost" "$@" --port 0 --port-file port --log-format json --checkpoint-s 1h
    fi
    MILEPOST_TARGET="127.0.0.1:$(cat port 2>/dev/null)" "$BIN/milepost" "$@"
}
"""


def blocks(heading: str) -> list[str]:
    """The shell commands of a section, a text for each block."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found != [], heading
    return found


class Shell:
    """A directory in which blocks are run. What they start is killed at the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._log = directory / "log"

    @property
    def log(self) -> str:
        """All that the commands have printed."""
        return self._log.read_text(encoding="utf-8")

    def run(self, commands: str) -> int:
        """Runs commands as a script that stops at the first failure, and returns the exit status."""
        # Services go on after the script, so they must not hold its output open for this process.
        with self._log.open("a", encoding="utf-8") as log:
            done = subprocess.run(
                ["bash", "-c", PREPARED + commands],
                cwd=self.directory,
                env={**os.environ, "BIN": str(Path(sys.executable).parent)},
                stdout=log,
                stderr=log,
                timeout=SECONDS_MAX,
                check=False,
            )
        return done.returncode

    def serve(self, commands: str) -> str:
        """Runs commands that start a service, and returns its address once it serves."""
        (self.directory / "port").unlink(missing_ok=True)
        assert self.run(commands) == 0, self.log
        eventually((self.directory / "port").exists)
        return f"127.0.0.1:{(self.directory / 'port').read_text().strip()}"

    @property
    def pid(self) -> int:
        """The process that the page says to note."""
        return int((self.directory / "milepost.pid").read_text())

    def end(self) -> None:
        """Kills the service if one runs."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    yield made
    made.end()


[START, STOP] = blocks("Start and stop")
[IN_MEMORY] = blocks("In memory")
[BACKUP, DELETE, RESTORE] = blocks("Backup and restore")
[ASKED, OFFLINE] = blocks("Maintenance")
[ADOPT] = blocks("An incomplete store")


def ingest(address: str, users: list[str]) -> None:
    with Client(address, account="acme") as client:
        client.ensure_account()
        web = client.ensure_input("shop", "web")
        client.ingest_events([make_event(user, "buy", datetime.now(UTC)) for user in users], input=web.name)


def users_of(address: str) -> int:
    with Client(address) as client:
        return client.get_server_info().users


def test_every_block_of_the_page_is_run_by_a_test() -> None:
    every = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    # tests/service/auth/test_security_page.py runs those of the section on security, and
    # tests/service/test_store_in_cluster.py a service over a ClickHouse server, whose URL names its own port.
    elsewhere = [*blocks("Security"), *blocks("In a ClickHouse cluster")]
    here = [START, STOP, IN_MEMORY, BACKUP, DELETE, RESTORE, ASKED, OFFLINE, ADOPT]
    assert sorted(every) == sorted([*here, *elsewhere])


def test_a_store_in_memory_serves_and_leaves_nothing(shell: Shell) -> None:
    # The page has it in the foreground.
    address = shell.serve(IN_MEMORY.rstrip() + " &\necho $! > milepost.pid\n")
    ingest(address, ["ann"])
    assert users_of(address) == 1
    assert sorted(path.name for path in shell.directory.iterdir()) == ["log", "milepost.pid", "port"]


def test_a_restore_brings_back_the_backup_and_nothing_later(shell: Shell) -> None:
    address = shell.serve(START)
    ingest(address, ["ann", "bob"])
    assert shell.run(BACKUP) == 0, shell.log
    ingest(address, ["eve"])
    assert users_of(address) == 3
    address = shell.serve(RESTORE)
    assert users_of(address) == 2
    # The backup was made before a checkpoint.
    assert re.search(
        r"restored \d users and \d events into store\nits log holds more, which counts", shell.log
    )
    # The first service ended before its store was moved, and the second one serves.
    assert shell.log.count('"event": "stopped"') == 1
    assert shell.log.count('"event": "ready"') == 2
    assert (shell.directory / "store.old" / "backups" / "nightly-1").is_dir()


def test_a_backup_is_deleted(shell: Shell) -> None:
    shell.serve(START)
    assert shell.run(BACKUP) == 0, shell.log
    assert shell.run(DELETE) == 0, shell.log
    assert shell.run("milepost store verify --data store/backups/nightly-1") == 1
    assert "there is no store in store/backups/nightly-1" in shell.log


def test_stopping_waits_for_the_end(shell: Shell) -> None:
    shell.serve(START)
    pid = shell.pid
    assert shell.run(STOP) == 0, shell.log
    # The lock goes with the store; the process has nothing left to do but to end.
    eventually(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text())
    assert '"event": "stopping"' in shell.log


def test_maintenance_with_and_without_a_service(shell: Shell) -> None:
    address = shell.serve(START)
    ingest(address, ["ann", "bob"])
    assert shell.run(ASKED) == 0, shell.log
    assert shell.run(OFFLINE.splitlines()[0]) == 1
    assert "another process owns the store in store" in shell.log
    assert shell.run(STOP) == 0, shell.log
    assert shell.run(OFFLINE) == 0, shell.log
    assert users_of(shell.serve(START)) == 2


@pytest.mark.parametrize("line", ADOPT.splitlines(), ids=["copied", "moved"])
def test_a_copy_is_served_once_it_was_adopted(shell: Shell, line: str) -> None:
    address = shell.serve(START)
    ingest(address, ["ann", "bob"])
    assert shell.run(STOP) == 0, shell.log
    shutil.move(shell.directory / "store", shell.directory / "original")
    shutil.copytree(shell.directory / "original", shell.directory / "store")
    assert shell.run("milepost serve --data-dir store") == 1
    assert "was copied, or moved from another file system" in shell.log
    assert shell.run(line) == 0, shell.log
    assert users_of(shell.serve(START)) == 2
