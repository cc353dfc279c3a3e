"""`make profile`: records a flame graph of a running service with py-spy.

The service is the process that holds the lock of the data directory. py-spy reads its memory: on most systems
that needs root, or your own process with `kernel.yama.ptrace_scope` at 0.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def owner_of(data_dir: Path) -> int:
    """The id of the process that has the store's lock file open. Raises SystemExit when there is none."""
    lock = (data_dir / "lock").resolve()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == lock:
                return int(descriptor.parts[2])
        except OSError:
            continue  # the process has ended, or belongs to another user
    raise SystemExit(f"found no service for {data_dir}: start one, or pass PID=")


def main() -> int:
    """Runs py-spy and returns its status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pid", type=int, help="process to record (default: the one that serves --data)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="data directory of the service")
    parser.add_argument("--seconds", type=int, default=30, help="duration of the recording")
    parser.add_argument("--out", type=Path, default=Path("profile.svg"), help="file to write")
    arguments = parser.parse_args()
    pid = owner_of(arguments.data) if arguments.pid is None else arguments.pid
    py_spy = Path(sys.executable).with_name("py-spy")
    command = [str(py_spy), "record", "--pid", str(pid), "--duration", str(arguments.seconds)]
    return subprocess.run([*command, "--threads", "--output", str(arguments.out)]).returncode


if __name__ == "__main__":
    sys.exit(main())
