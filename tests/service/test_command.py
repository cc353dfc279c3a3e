"""`python -m service`: ready, stopped by a signal, and what keeps it from starting."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from milepost.v1 import account_service_pb2
from tests.harness import Stubs, eventually

START_TIMEOUT_S = 60


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "service", *flags]


@contextmanager
def process(directory: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """A service in a process of its own; killed at the end if it still runs."""
    child = subprocess.Popen(
        command("--data-dir", str(directory / "store"), "--port", "0", *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def run(*flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command, for as long as it takes to fail."""
    return subprocess.run(
        command(*flags),
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )


def ready_address(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line.startswith("ready address=127.0.0.1:"), line
    return line.strip().removeprefix("ready address=")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_when_it_is_ready_and_ends_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    port_file = tmp_path / "port"
    with process(tmp_path, "--port-file", str(port_file), "--log-format", "json") as child:
        address = ready_address(child)
        assert address == f"127.0.0.1:{port_file.read_text().strip()}"
        stubs = Stubs(address)
        stubs.create_inputs()
        stubs.close()
        child.send_signal(number)
        out, err = child.communicate(timeout=START_TIMEOUT_S)
        assert child.returncode == 0, err
        assert out == ""
        assert '"event": "stopped"' in err.splitlines()[-1]


_SIGNAL_TO_ANOTHER_THREAD = """
import signal, threading, time
from service.command import StopSignals

stopping = StopSignals()
other = threading.Thread(target=time.sleep, args=(3_600,), daemon=True)
other.start()
threading.Timer(0.2, signal.pthread_kill, (other.ident, signal.SIGTERM)).start()
stopping.wait()
print("stopped", flush=True)
"""


def test_a_signal_that_another_thread_gets_stops_the_service_as_well() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SIGNAL_TO_ANOTHER_THREAD],
        check=True,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
    )
    assert done.stdout == "stopped\n"


def test_what_was_answered_is_there_after_a_kill(tmp_path: Path) -> None:
    with process(tmp_path) as child:
        stubs = Stubs(ready_address(child))
        stubs.create_inputs()
        stubs.close()
        child.send_signal(signal.SIGKILL)
    with process(tmp_path) as child:
        stubs = Stubs(ready_address(child))
        accounts = stubs.accounts.ListAccounts(account_service_pb2.ListAccountsRequest()).accounts
        assert [account.name for account in accounts] == ["accounts/a"]
        stubs.close()


def test_a_store_that_another_process_owns(tmp_path: Path) -> None:
    with process(tmp_path) as child:
        ready_address(child)
        second = run("--data-dir", str(tmp_path / "store"), "--port", "0")
    assert second.returncode == 1
    assert second.stderr == f"milepost: another process owns the store in {tmp_path / 'store'}\n"
    assert "Traceback" not in second.stderr


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = run("--data-dir", str(tmp_path / "store"), "--port", str(port))
    assert refused.returncode == 1
    assert f"milepost: cannot listen on 127.0.0.1:{port}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_data_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    refused = run("--data-dir", str(tmp_path / "store"), "--port", "0")
    assert refused.returncode == 1
    assert refused.stderr.startswith("milepost: ")
    assert "Traceback" not in refused.stderr


def test_a_setting_that_cannot_be_used() -> None:
    refused = run(MILEPOST_PORT="tcp://10.0.0.1:7443")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "milepost: MILEPOST_PORT must be a number, got 'tcp://10.0.0.1:7443'\n"


def test_a_port_file_is_whole_when_it_appears(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    with process(tmp_path, "--port-file", str(port_file)) as child:
        eventually(port_file.exists)
        assert port_file.read_text().endswith("\n")
        assert ready_address(child).endswith(":" + port_file.read_text().strip())
