"""How long tests of rules take: `python -m tests.bench.rules [SCENARIOS]`.

Prints the processor time and the time of `milepost test` for one small file, start of Python included, and of
200 scenarios of the example journeys in one process, alone and with coverage.
"""

from __future__ import annotations

import dataclasses
import itertools
import resource
import subprocess
import sys
import time
from pathlib import Path

from milepost.rules import Coverage, Runner, read
from milepost.testing.in_process import in_process

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
SCENARIOS = 200


def small_file() -> tuple[float, float]:
    """Processor seconds and seconds of the command for the tests of one example."""
    began = time.perf_counter()
    command = [str(Path(sys.executable).with_name("milepost")), "test", str(EXAMPLES / "consent.test.yaml")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after, passed = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, passed


def scenarios(count: int, coverage: Coverage | None) -> tuple[float, float]:
    """Processor seconds and seconds of that many scenarios."""
    files = [read(file) for file in sorted(EXAMPLES.glob("*.test.yaml"))]
    each = [dataclasses.replace(file, scenarios=(scenario,)) for file in files for scenario in file.scenarios]
    with in_process() as connect:
        runner = Runner(connect, coverage)
        used, began = time.process_time(), time.perf_counter()
        for tests in itertools.islice(itertools.cycle(each), count):
            assert all(result.passed for result in runner.run(tests))
        return time.process_time() - used, time.perf_counter() - began


def main(count: int) -> None:
    """Prints the figures."""
    print("processor s    s  what")
    for what, (used, passed) in (
        ("`milepost test` of a small file", small_file()),
        (f"{count} scenarios", scenarios(count, None)),
        (f"{count} scenarios with coverage", scenarios(count, Coverage())),
    ):
        print(f"{used:11.2f} {passed:4.2f}  {what}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SCENARIOS)
