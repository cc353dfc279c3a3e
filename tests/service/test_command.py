"""`python -m service`: ready, stopped by a signal, and failing starts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest

from milepost.v1 import account_service_pb2
from service.command_line import flag_of
from service.config import fields
from tests.harness import Stubs, eventually

START_TIMEOUT_S = 60


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "service", *flags]


@contextmanager
def process(directory: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """A service in a separate process; killed at the end if it still runs."""
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
def test_service_reports_ready_and_ends_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
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
from service.signals import Signals

stopping = Signals()
other = threading.Thread(target=time.sleep, args=(3_600,), daemon=True)
other.start()
threading.Timer(0.2, signal.pthread_kill, (other.ident, signal.SIGTERM)).start()
stopping.wait()
print("stopped", flush=True)
"""


def test_signal_to_another_thread_stops_the_service() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SIGNAL_TO_ANOTHER_THREAD],
        check=True,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
    )
    assert done.stdout == "stopped\n"


def test_acknowledged_writes_survive_a_kill(tmp_path: Path) -> None:
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


def test_store_of_another_process_is_refused(tmp_path: Path) -> None:
    with process(tmp_path) as child:
        ready_address(child)
        second = run("--data-dir", str(tmp_path / "store"), "--port", "0")
    assert second.returncode == 1
    last = second.stderr.splitlines()[-1]
    way_on = "stop it first, or name another directory"
    assert last == f"milepost: another process owns the store in {tmp_path / 'store'}: {way_on}"
    assert "Traceback" not in second.stderr


def test_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = run("--data-dir", str(tmp_path / "store"), "--port", str(port))
    assert refused.returncode == 1
    assert f"milepost: cannot listen on 127.0.0.1:{port}: " in refused.stderr
    assert "Address already in use" in refused.stderr
    assert refused.stderr.splitlines()[-1].endswith("; --port names another port, 0 a free one")
    assert "Traceback" not in refused.stderr


def test_invalid_data_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    refused = run("--data-dir", str(tmp_path / "store"), "--port", "0")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("milepost: ")
    assert "Traceback" not in refused.stderr


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    below_a_link = tmp_path / "link"
    below_a_link.symlink_to(below_a_link)
    (tmp_path / "store" / "lock").mkdir(parents=True)
    lock = tmp_path / "store" / "lock"
    for directory, reason in (
        (Path("/proc/nothing"), "No such file or directory"),
        (lock.parent, f"{lock}: Is a directory"),
        (below_a_link / "store", "Too many levels of symbolic links"),
    ):
        refused = run("--data-dir", str(directory), "--port", "0")
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1] == (
            f"milepost: the data directory {directory} cannot be used: {reason};"
            " choose another with --data-dir"
        )
        assert "Errno" not in refused.stderr


def test_invalid_setting_is_refused() -> None:
    refused = run(MILEPOST_PORT="tcp://10.0.0.1:7443")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "milepost: MILEPOST_PORT must be a number, got 'tcp://10.0.0.1:7443'\n"


def test_port_file_is_written_atomically(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    with process(tmp_path, "--port-file", str(port_file)) as child:
        eventually(port_file.exists)
        assert port_file.read_text().endswith("\n")
        assert ready_address(child).endswith(":" + port_file.read_text().strip())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--map-bytes", str(2**62)], f"--map-bytes must be at most 35184372088832, got {2**62}"),
        (
            ["--port-file", "/nowhere/port"],
            "--port-file /nowhere/port cannot be written: No such file or directory",
        ),
        (["--port-file", "/tmp"], "--port-file /tmp cannot be written: Is a directory"),
        (["--config-file", "/nowhere"], "/nowhere cannot be read: No such file or directory"),
        (["--stop-grace-s", "-1"], "--stop-grace-s must be at least 0, got -1"),
    ],
)
def test_a_setting_that_cannot_be_used_ends_with_status_2_and_a_line(
    tmp_path: Path, flags: list[str], message: str
) -> None:
    refused = run("--data-dir", str(tmp_path / "store"), "--port", "0", *flags)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"milepost: {message}\n"
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("prefix", ["", "http-", "metrics-"])
@pytest.mark.parametrize(
    ("host", "way_on"),
    [
        ("203.0.113.1", "host names an address of this machine"),
        ("no-such-host.invalid", "host names an address of this machine"),
        ("127.0.0.1", "port names another port, 0 a free one"),
    ],
)
def test_an_address_that_cannot_be_had_names_the_setting_to_change(
    tmp_path: Path, prefix: str, host: str, way_on: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = {"port": "0", "http-port": "0"} | {f"{prefix}port": str(port), f"{prefix}host": host}
        refused = run(
            *("--data-dir", str(tmp_path / "store"), "--readers", "1", "--insecure-listen"),
            *(text for name, value in flags.items() for text in (f"--{name}", value)),
        )
    assert (refused.returncode, refused.stdout) == (1, "")
    last = refused.stderr.splitlines()[-1]
    assert f" on {host}:{port}: " in last
    assert last.endswith(f"; --{prefix}{way_on}")


def test_too_little_address_space_is_named(tmp_path: Path) -> None:
    limited = ["bash", "-c", 'ulimit -v 40000000 && exec "$@"', "-"]
    refused = subprocess.run(
        [*limited, *command("--data-dir", str(tmp_path / "store"), "--port", "0")],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("milepost: cannot reserve 274,877,906,944 bytes of")
    assert "--map-bytes" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_largest_settings_can_be_served(tmp_path: Path) -> None:
    flags = []
    for field in fields():
        # As many readers as are allowed would take minutes to start.
        if field.kind in (int, float) and field.name not in ("port", "groups", "readers"):
            flags += [flag_of(field.name), str(field.kind(field.setting.most))]
    with process(tmp_path, *flags) as child:
        stubs = Stubs(ready_address(child))
        stubs.create_inputs()
        stubs.close()
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=START_TIMEOUT_S)
        assert child.returncode == 0, err
        assert "Traceback" not in err
        assert "thread failed" not in err


def test_another_number_of_groups_is_refused_and_the_same_is_not(tmp_path: Path) -> None:
    def served(*flags: str) -> tuple[int, str]:
        with process(tmp_path, *flags) as child:
            assert child.stdout is not None
            if child.stdout.readline():
                child.send_signal(signal.SIGTERM)
            _, err = child.communicate(timeout=START_TIMEOUT_S)
            return child.returncode, err.splitlines()[-1]

    assert served("--groups", "4")[0] == 0
    assert served("--groups", "4")[0] == 0
    assert served()[0] == 0
    status, line = served("--groups", "8")
    assert status == 1
    assert line == (
        f"milepost: the store in {tmp_path / 'store'} has 4 groups, and --groups says 8: the number is fixed"
        " when a store is created; leave the setting out"
    )


def test_a_long_refresh_interval_does_not_delay_the_stop(tmp_path: Path) -> None:
    # Longer than the test may take, and so than communicate waits.
    with process(tmp_path, "--refresh-interval-ms", "10m", "--stop-grace-s", "0") as child:
        ready_address(child)
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=START_TIMEOUT_S)
        assert child.returncode == 0


def test_sighup_leaves_the_service_running(tmp_path: Path) -> None:
    with process(tmp_path, "--log-format", "json") as child:
        stubs = Stubs(ready_address(child))
        child.send_signal(signal.SIGHUP)
        assert child.stderr is not None
        for line in child.stderr:
            if "SIGHUP" in json.loads(line)["event"]:
                break
        else:
            pytest.fail("no line in the log")
        stubs.create_inputs()
        stubs.close()
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=START_TIMEOUT_S)
        assert child.returncode == 0


_STOPPED_WHILE_LOADING = """
import os, signal, sys
from service.signals import Signals

created = Signals.__init__

def create_and_stop(self):
    created(self)
    os.kill(os.getpid(), signal.SIGTERM)

Signals.__init__ = create_and_stop
from service import main

sys.exit(main(sys.argv[1:]))
"""


def test_a_stop_signal_during_the_start_ends_it_with_status_0(tmp_path: Path) -> None:
    flags = ["--data-dir", str(tmp_path / "store"), "--port", "0"]
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED_WHILE_LOADING, *flags],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not (tmp_path / "store").exists()


def test_signals_are_handled_before_the_service_is_loaded() -> None:
    heavy = ("grpc", "structlog", "engine", "numpy")
    code = f"import sys, service.signals; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_start_logs_version_settings_and_the_store(tmp_path: Path) -> None:
    with process(tmp_path, "--log-format", "json", "--checkpoint-s", "20s") as child:
        ready_address(child)
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=START_TIMEOUT_S)
    # gRPC writes a line of its own as the service stops to listen.
    own = [line for line in err.splitlines() if line.startswith("{")]
    lines = {line["event"]: line for line in map(json.loads, own)}
    assert list(lines) == ["starting", "store opened", "ready", "stopping", "stopped"]
    assert lines["starting"]["version"] == metadata.version("milepost-server")
    assert lines["starting"]["settings"] == {
        "data_dir": str(tmp_path / "store"),
        "port": "0",
        "readers": "0",
        "checkpoint_s": "20.0",
        "log_format": "json",
    }
    opened = lines["store opened"]
    assert len(opened["store_id"]) == 32
    assert (opened["revision"], opened["users"], opened["events"]) == (0, 0, 0)
    assert opened["disk_bytes"] >= opened["log_bytes"] > 0


def test_a_failed_start_is_an_object_in_a_json_log(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    refused = run("--data-dir", str(tmp_path / "store"), "--port", "0", "--log-format", "json")
    assert refused.returncode == 1
    last = json.loads(refused.stderr.splitlines()[-1])
    assert (last["event"], last["level"]) == ("start failed", "error")
    assert str(tmp_path / "store") in last["error"]


def test_an_unknown_variable_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    refused = run("--data-dir", str(tmp_path / "store"), MILEPOST_CHECKPOINTS="1", MILEPOST_TARGET="x:1")
    assert "unknown variable ignored" in refused.stderr
    assert "did_you_mean=MILEPOST_CHECKPOINT_S variable=MILEPOST_CHECKPOINTS" in refused.stderr
    assert "MILEPOST_TARGET" not in refused.stderr


@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_is_told_of_start_reload_and_stop(
    tmp_path: Path, is_abstract: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, tempfile.TemporaryDirectory() as short:
        name = f"milepost-test-{os.getpid()}" if is_abstract else f"{short}/notify"
        manager.bind(f"\0{name}" if is_abstract else name)
        manager.settimeout(START_TIMEOUT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if is_abstract else name)

        def told() -> list[str]:
            return manager.recv(4_096).decode().splitlines()

        with process(tmp_path) as child:
            address = ready_address(child)
            assert told() == ["READY=1", f"STATUS=serving on {address}"]
            child.send_signal(signal.SIGHUP)
            assert [line.partition("=")[0] for line in told()] == ["RELOADING", "MONOTONIC_USEC"]
            assert told()[0] == "READY=1"
            child.send_signal(signal.SIGTERM)
            assert told()[0] == "STOPPING=1"
            child.communicate(timeout=START_TIMEOUT_S)
            assert child.returncode == 0
