"""Tables of docs/benchmarks.md that a benchmark writes itself, each with the build it was measured on.

A table lies between `<!-- measured: NAME -->` and `<!-- end -->`, below a line that names the commit, the
hash of its directory `engine/`, the day and the machine. The table that a new one replaces is kept in the
block `NAME, the run before`.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
BEFORE = ", the run before"
HASH_DIGITS = 12
_BLOCK = re.compile(r"<!-- measured: (?P<name>[^>]*?) -->\n(?P<body>.*?)<!-- end -->", re.DOTALL)
_STAMP = re.compile(r"Commit `(?P<commit>[^`]+)`, engine `(?P<engine>[^`]+)`, (?P<day>\d{4}-\d\d-\d\d)")


@dataclass(frozen=True)
class Stamp:
    """The build a table was measured on, and the day."""

    commit: str
    engine: str
    """The hash of the tree `engine/`, or "changed" when files of it were not committed."""
    day: str


def git(*arguments: str) -> str | None:
    """What git prints; None without git or outside a repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def engine_tree(commit: str = "HEAD") -> str | None:
    """The hash of `engine/` in a commit."""
    found = git("rev-parse", f"{commit}:engine")
    return None if found is None else found[:HASH_DIGITS]


def stamp_now() -> Stamp:
    """The build in this directory, and today."""
    changed = git("status", "--porcelain", "engine")
    return Stamp(
        commit=(git("rev-parse", "HEAD") or "unknown")[:HASH_DIGITS],
        engine="changed" if changed else engine_tree() or "unknown",
        day=datetime.now(UTC).date().isoformat(),
    )


def machine() -> str:
    """The machine in a few words."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def replaced(page: str, name: str, table: str, stamp: Stamp, remarks: str) -> str:
    """The page with a new table, and the one that was there as the run before. Raises LookupError when it has
    no such block.
    """
    blocks = {found["name"]: found["body"] for found in _BLOCK.finditer(page)}
    line = f"Commit `{stamp.commit}`, engine `{stamp.engine}`, {stamp.day}, {remarks}."
    bodies = {name: f"{line}\n\n{table}\n", name + BEFORE: blocks[name]}
    missing = bodies.keys() - blocks.keys()
    if missing:
        raise LookupError(f"no block for {missing}")

    def body_of(found: re.Match[str]) -> str:
        body = bodies.get(found["name"], found["body"])
        return f"<!-- measured: {found['name']} -->\n{body}<!-- end -->"

    return _BLOCK.sub(body_of, page)


def write(name: str, table: str, remarks: str) -> None:
    """Puts a table into docs/benchmarks.md."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replaced(page, name, table, stamp_now(), remarks), encoding="utf-8")


def stamps(page: str) -> dict[str, Stamp]:
    """The build of each measured table; a block may have none yet. Raises ValueError for one without."""
    found = {}
    for block in _BLOCK.finditer(page):
        if "|" not in block["body"]:
            continue
        stamp = _STAMP.search(block["body"])
        if stamp is None:
            raise ValueError(f"the table {block['name']!r} names no build")
        found[block["name"]] = Stamp(stamp["commit"], stamp["engine"], stamp["day"])
    return found


def age(stamp: Stamp) -> str:
    """How old a table is, in words: whether the engine is still that of the table, else the commits since."""
    now = engine_tree()
    if now is None:
        return f"of {stamp.day}; no repository to compare with"
    if now == stamp.engine:
        return f"of {stamp.day}, of this engine"
    commits = git("rev-list", "--count", f"{stamp.commit}..HEAD", "--", "engine")
    since = f"{commits} commits to engine/ since" if commits else "of a commit that is not here"
    return f"of {stamp.day}, of another engine ({stamp.engine}, now {now}): {since}"
