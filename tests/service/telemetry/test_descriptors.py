"""Without a free file descriptor no connection is accepted, and the log says so."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.telemetry.descriptors import ENOUGH

FEW = 64
START_TIMEOUT_S = 60
CONNECTIONS = 120


def started(directory: Path, limit: str, *flags: str) -> subprocess.Popen[str]:
    service = [sys.executable, "-m", "service", "--data-dir", str(directory / "store"), "--port", "0"]
    return subprocess.Popen(
        ["bash", "-c", f'ulimit {limit} && exec "$@"', "-", *service, "--log-format", "json", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(params=["0", "1"], ids=["alone", "with a reader"])
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    child = started(tmp_path, f"-n {FEW}", "--readers", request.param)
    # A guard: the lines below are read until one comes that is expected.
    guard = threading.Timer(START_TIMEOUT_S, child.kill)
    guard.start()
    try:
        yield child
    finally:
        guard.cancel()
        child.kill()
        child.communicate()


def line_with(child: subprocess.Popen[str], text: str) -> dict[str, object]:
    """The next line of the log whose event begins with the text."""
    assert child.stderr is not None
    for line in child.stderr:
        found: dict[str, object] = json.loads(line) if line.startswith("{") else {}
        if str(found.get("event")).startswith(text):
            return found
    pytest.fail(f"no line in the log: {text}")


def test_refused_connections_have_a_line_and_so_has_their_end(service: subprocess.Popen[str]) -> None:
    assert line_with(service, "few file descriptors")["limit"] == FEW
    ready = str(line_with(service, "ready")["address"])
    host, _, port = ready.rpartition(":")
    held = [socket.create_connection((host, int(port)), timeout=START_TIMEOUT_S) for _ in range(CONNECTIONS)]
    assert line_with(service, "no file descriptor is free")["limit"] == FEW
    for each in held:
        each.close()
    line_with(service, "file descriptors are free again")


def test_the_limit_is_raised_to_the_highest_allowed(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    child = started(tmp_path, "-S -n 256")
    try:
        line_with(child, "ready")
        limits = Path(f"/proc/{child.pid}/limits").read_text()
        [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
        assert line.split()[3:5] == [str(min(hard, ENOUGH)), str(hard)]
    finally:
        child.kill()
        child.communicate()
