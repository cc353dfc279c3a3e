"""The page on the command line is a session with a real service, from an empty store."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.terminal import Terminal, differs, terminal
from tests.harness import EVENTUALLY_S, POLL_S, serving

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
WRITES_FILE = "cat "
READS = ("show", "watch")
"""Commands that are repeated until they print what is expected: refreshing and delivery take a moment."""


@dataclass(frozen=True)
class Entry:
    """A line after the prompt, and what follows it."""

    line: str
    printed: str


def entries(page: str) -> Iterator[Entry]:
    session = page.partition("<!-- session -->")[2].partition("<!-- end -->")[0]
    for block in re.findall(r"^```console\n(.*?)^```$", session, re.MULTILINE | re.DOTALL):
        for entry in block.split("$ ")[1:]:
            line, _, printed = entry.partition("\n")
            yield Entry(line, printed)


def faults(entry: Entry, screen: Terminal) -> str:
    """What the command printed, when the page says something else."""
    deadline = time.monotonic() + EVENTUALLY_S
    while True:
        found = differs(entry.printed, screen.run(entry.line).output)
        if not found or entry.line.split()[2] not in READS or time.monotonic() > deadline:
            return found
        time.sleep(POLL_S)


def test_every_command_on_the_page_prints_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = list(entries(PAGE))
    monkeypatch.chdir(tmp_path)
    with (
        serving(tmp_path / "store", access_log="none", output_dir=tmp_path / "outputs") as service,
        terminal(service.address, "acme") as screen,
    ):
        for entry in session:
            if entry.line.startswith(WRITES_FILE):
                Path(entry.line.removeprefix(WRITES_FILE)).write_text(entry.printed, encoding="utf-8")
            else:
                assert (entry.line, faults(entry, screen)) == (entry.line, "")
    assert len(session) == 42
