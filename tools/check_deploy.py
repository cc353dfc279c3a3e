"""`make deploy-files`: checks the files of docs/deploy with the tools that are installed.

Prints a line for each file and tool. A tool that is not on the PATH is named as missing, and its files count
as unchecked; `--strict` makes that a failure. `tests/test_deploy.py` checks the rest: that flags, variables,
metrics and labels in these files exist.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "docs" / "deploy"
SECONDS_MAX = 120
INSTALLED_SERVER = "/opt/milepost/bin/milepost-server"


@dataclass(frozen=True)
class Check:
    """One command over one file, run in the directory of the file."""

    file: Path
    command: Sequence[str]


def checks(scratch: Path) -> Iterator[Check]:
    """Every check, whether or not its tool is installed."""
    yield Check(DEPLOY / "container" / "Containerfile", ("hadolint", "Containerfile"))
    for name in ("service.yaml", "statefulset.yaml", "init.yaml"):
        yield Check(DEPLOY / "kubernetes" / name, ("kubernetes-validate", "--strict", name))
    yield Check(DEPLOY / "kubernetes" / "kustomization.yaml", ("kustomize", "build", "."))
    yield Check(DEPLOY / "prometheus" / "alerts.yaml", ("promtool", "check", "rules", "alerts.yaml"))
    yield Check(DEPLOY / "prometheus" / "alerts_test.yaml", ("promtool", "test", "rules", "alerts_test.yaml"))
    yield Check(
        DEPLOY / "systemd" / "milepost.service", ("systemd-analyze", "verify", str(_unit_to_verify(scratch)))
    )


def _unit_to_verify(scratch: Path) -> Path:
    """The unit with a program that exists here, as systemd checks that it can be run."""
    text = (DEPLOY / "systemd" / "milepost.service").read_text(encoding="utf-8")
    assert INSTALLED_SERVER in text
    unit = scratch / "milepost.service"
    unit.write_text(text.replace(INSTALLED_SERVER, sys.executable), encoding="utf-8")
    return unit


def run(check: Check) -> str:
    """The output of a failed check; "" when it passed."""
    done = subprocess.run(
        check.command,
        cwd=check.file.parent,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    # systemd-analyze reports unknown settings as warnings, with status 0.
    is_sound = done.returncode == 0 and (check.command[0] != "systemd-analyze" or not done.stderr.strip())
    return "" if is_sound else (done.stdout + done.stderr).strip() or f"status {done.returncode}"


def main() -> int:
    """Runs all checks and returns the exit status."""
    parser = argparse.ArgumentParser(description="Check the files of docs/deploy with the installed tools.")
    parser.add_argument("--strict", action="store_true", help="fail when a tool is missing")
    options = parser.parse_args()
    # Tools of the environment that runs this come first.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    failed = missing = 0
    with tempfile.TemporaryDirectory() as scratch:
        for check in checks(Path(scratch)):
            name, tool = check.file.relative_to(ROOT), check.command[0]
            if shutil.which(tool) is None:
                missing += 1
                print(f"not checked  {name}: {tool} is not installed")
                continue
            output = run(check)
            failed += bool(output)
            print(f"{'FAILED' if output else 'ok':11}  {name}: {tool}")
            if output:
                print(output)
    return 1 if failed or (missing and options.strict) else 0


if __name__ == "__main__":
    sys.exit(main())
