"""`make quick`: the tests nearest to the changes since a commit, within a time budget.

Changed test files run first, then tests named after a changed module, then tests that import one. `make test`
runs everything.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECONDS_MAX = 35.0
"""Time that lint leaves of a minute on two cores."""
FILES_MAX = 15
"""Importing more files would use up the budget."""
ALWAYS = ("tests/test_docs.py", "tests/test_layering.py")
"""Cheap tests that any change can break. They run last."""


class Budget:
    """A pytest plugin that ends the session after the first test that exceeds the budget."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self.is_spent = False

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Checks the time after each test."""
        if time.monotonic() > self._deadline:
            self.is_spent = True
            item.session.shouldstop = "`make quick` has used its budget"


def changed_files(against: str) -> list[str]:
    """Paths changed since the branch left `against`, including uncommitted and untracked files."""
    base = _git("merge-base", against, "HEAD")[0]
    return sorted({*_git("diff", "--name-only", base), *_git("ls-files", "--others", "--exclude-standard")})


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def nearest_tests(changed: Iterable[str], tests: Iterable[str]) -> list[str]:
    """The test files of `tests` affected by `changed`, nearest first: changed itself, named after a changed
    module, importing one.
    """
    changed = set(changed)
    modules = {module_of(path) for path in changed if path.endswith(".py")}
    stems = {module.rpartition(".")[2] for module in modules}
    distances = {}
    for test in tests:
        if test in changed:
            distances[test] = 0
        elif Path(test).stem.removeprefix("test_") in stems:
            distances[test] = 1
        elif modules & imports_of((ROOT / test).read_text(encoding="utf-8")):
            distances[test] = 2
    return sorted(distances, key=lambda test: (distances[test], test))


def module_of(path: str) -> str:
    """The dotted name under which the file at `path` is imported."""
    parts = Path(path.removeprefix("clients/python/")).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str) -> set[str]:
    """Modules that `source` imports by absolute name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def main() -> int:
    """Runs the tests. Returns pytest's status, 0 when the budget ended a run without failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", default="main", help="git ref to compare with")
    parser.add_argument("--seconds", type=float, default=SECONDS_MAX, help="budget for the tests")
    arguments = parser.parse_args()
    tests = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    chosen = nearest_tests(changed_files(arguments.against), tests)
    near = chosen[:FILES_MAX]
    files = [*near, *(test for test in ALWAYS if test not in near)]
    print(
        f"{len(chosen)} test files are near the changes since {arguments.against}; running {len(files)}",
        flush=True,
    )
    budget = Budget(arguments.seconds)
    status = int(pytest.main(["-q", "-x", "-p", "no:xdist", *files], plugins=[budget]))
    if budget.is_spent and status == pytest.ExitCode.INTERRUPTED:
        print(f"stopped after {arguments.seconds:g} s without a failure; `make test` runs the rest")
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
