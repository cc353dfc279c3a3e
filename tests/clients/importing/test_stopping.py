"""Ctrl-C and SIGTERM in the middle of an import: it says where it stands, and the next run goes on there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from milepost.importing import run as running
from tests.clients.importing.command import Target, write_csv
from tests.harness import EVENTUALLY_S

ROWS = 300
SEGMENT_ROWS = 10


def command_of(output: str) -> list[str]:
    """The command that a message gives, without `milepost import`."""
    [line] = [line for line in output.splitlines() if line.startswith("  milepost import ")]
    return shlex.split(line)[2:]


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_reports_its_progress_and_the_command_to_continue(
    target: Target, tmp_path: Path, signal_: signal.Signals
) -> None:
    files = [write_csv(tmp_path / f"{name}.csv", ROWS) for name in "ab"]
    side = tmp_path / "side"
    command = [
        str(Path(sys.executable).with_name("milepost")),
        "import",
        *map(str, files),
        "--side-dir",
        str(side),
    ]
    command += ["--account", target.account, "--target", target.address, "--input", "w/i"]
    command += ["--segment-rows", str(SEGMENT_ROWS), "--api-key", "secret"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + EVENTUALLY_S
        while target.events() < 5 * SEGMENT_ROWS:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
        os.kill(process.pid, signal_)
        stdout, stderr = process.communicate(timeout=EVENTUALLY_S)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    said = re.search(rf"stopped: {files[0]}: ([\d,]+) rows are acknowledged", stderr)
    assert said is not None, stderr
    acknowledged = int(said[1].replace(",", ""))
    assert 5 * SEGMENT_ROWS - SEGMENT_ROWS <= acknowledged < ROWS
    assert acknowledged <= target.events() <= acknowledged + SEGMENT_ROWS
    assert "; 1 further file is not begun" in stderr
    assert "0 of 2 files imported" in stdout
    assert "secret" not in stderr
    again = command_of(stderr)
    assert again == [argument for argument in command[2:] if argument not in ("--api-key", "secret")]
    # Longer segments now: the one that was under way is sent again with the rows it had.
    done = subprocess.run(
        [*command[:2], *again, "--segment-rows", "500"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # The signal may come between an acknowledgement and its being counted.
    assert re.search(
        rf"after ({acknowledged:,}|{acknowledged + SEGMENT_ROWS:,}) in earlier runs", done.stdout
    )
    assert target.events() == 2 * ROWS


def test_continuing_a_from_start_run_does_not_start_over_again(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command to continue with has no --from-start and no --force, so that nothing counts three times."""
    file = write_csv(tmp_path / "e.csv", 30)
    assert target.run(file).exit_code == 0
    send = running._Sending.send

    def stop(self: running._Sending, segment: object) -> None:
        send(self, segment)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(running._Sending, "send", stop)
        result = target.run(
            file, "--segment-rows", 10, "--column", "amount:string", "--from-start", "--force"
        )
    assert result.exit_code == 130
    assert "10 rows are acknowledged" in result.output
    assert target.events() == 30 + 10
    again = command_of(result.output)
    assert not {"--from-start", "--force"} & {*again}
    assert target.run(*again).exit_code == 0
    assert target.events() == 60


def test_an_unreachable_service_leaves_no_files(target: Target, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "e.csv", 30)
    result = target.run(file, address="localhost:1")
    assert result.exit_code == 1
    assert "is the service running?" in result.output
    assert not (tmp_path / "e.csv.milepost-import.json").exists()
    assert target.run(file).exit_code == 0
