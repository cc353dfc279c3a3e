"""`milepost watch` as a process: it follows an audience until Ctrl-C, and says where to go on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from milepost import Client, make_event
from milepost.criteria import event
from milepost.outputs import WatchOutput
from tests.harness import CALL_TIMEOUT_S, serving

MILEPOST = Path(sys.executable).with_name("milepost")
_TAKE_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
TAKING_CTRL_C = (sys.executable, "-c", _TAKE_CTRL_C)
"""Not a function to run after a fork: this process has threads of gRPC."""


@contextmanager
def started(line: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """The command as a process that takes Ctrl-C, also where that is ignored, as in a shell's background."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*TAKING_CTRL_C, *line], stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def printed(process: subprocess.Popen[str], lines: int) -> list[str]:
    """The next lines; the process is interrupted after them."""
    assert process.stdout is not None
    found = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGINT)
    return found


def test_ctrl_c_ends_a_watch_with_its_cursor_and_the_next_one_goes_on_there(tmp_path: Path) -> None:
    with serving(tmp_path) as service, Client(service.address, account="a") as client:
        client.ensure_account()
        client.ensure_input("w", "i")
        client.ensure_journey("j")
        client.ensure_milestone("j", "m", criteria=event("buy").happened())
        client.ingest_events([make_event("ann", "buy", datetime.now(UTC))], input="w/i")
        client.ensure_output("o", WatchOutput())
        client.ensure_connection("c", target="j/m", output="o")
        client.activate_connection("c")

        line = [str(MILEPOST), "watch", "j/m", "--target", service.address, "--account", "a"]
        # The members, then the marks that say where a later watch goes on.
        with started([*line, "--json"]) as first:
            begin, members, end, mark = map(json.loads, printed(first, 4))
            assert "snapshotBegin" in begin
            about = {"audience": begin["audience"], "epoch": begin["epoch"]}
            # What a watch of several audiences has beside is empty in one of a single audience.
            assert members == {"snapshot": {"userIds": ["ann"]}, "position": "", "requestedName": "", **about}
            assert end["snapshotEnd"]["cursor"] == mark["progress"]["cursor"] == "1"
            way_on = f"--cursor 1 --epoch {about['epoch']}"
            assert first.communicate(timeout=CALL_TIMEOUT_S)[1] == f"continue with {way_on}\n"
        client.ingest_events([make_event("bob", "buy", datetime.now(UTC))], input="w/i")
        with started([*line, *way_on.split()]) as second:
            assert printed(second, 1) == ["entered  bob\n"]
            way_on = f"--cursor 2 --epoch {about['epoch']}"
            assert second.communicate(timeout=CALL_TIMEOUT_S) == ("", f"continue with {way_on}\n")
        assert (first.returncode, second.returncode) == (0, 0)


def test_a_watch_of_several_tells_its_position_and_fails_when_one_ends(tmp_path: Path) -> None:
    with serving(tmp_path) as service, Client(service.address, account="a") as client:
        client.ensure_account()
        client.ensure_journey("j")
        client.ensure_output("o", WatchOutput())
        for name in ("one", "two"):
            client.ensure_milestone("j", name, criteria=event(name).happened())
            client.ensure_connection(name, target=f"j/{name}", output="o")
            client.activate_connection(name)
        command = [str(MILEPOST), "watch", "j/one", "--target", service.address, "--account", "a", "--once"]
        both = subprocess.run([*command, "j/two", "--json"], check=False, capture_output=True, text=True)
        marks = [line for line in map(json.loads, both.stdout.splitlines()) if "progress" in line]
        assert marks[-1]["position"]
        assert both.stderr == f"continue with --position {marks[-1]['position']}\n"
        misspelt = subprocess.run([*command, "j/tow"], check=False, capture_output=True, text=True)
        assert "j/tow: accounts/a/journeys/j/milestones/tow does not exist" in misspelt.stderr
        assert (both.returncode, misspelt.returncode) == (0, 1)
