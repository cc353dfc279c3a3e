"""Results of rule tests, by file, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from milepost.rules.coverage import Coverage
from milepost.rules.model import RuleTests
from milepost.rules.running import Result, counted


@dataclass(frozen=True)
class FileResult:
    """The results of a file, or the faults for which it could not be read."""

    name: str
    tests: RuleTests | None
    results: tuple[Result, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def cases(self) -> int:
        """The tests, and one for a file that could not be read."""
        return len(self.results) + bool(self.faults)

    @property
    def failed(self) -> int:
        """Tests in which something is not as expected."""
        return sum(bool(result.failures) for result in self.results)

    @property
    def errors(self) -> int:
        """Tests that could not be run."""
        return sum(bool(result.error) for result in self.results) + bool(self.faults)

    @property
    def seconds(self) -> float:
        """How long the tests took."""
        return sum(result.seconds for result in self.results)

    def line_of(self, result: Result) -> int | None:
        """The line of a test in its file."""
        return None if self.tests is None else self.tests.places.line_of(result.scenario.path)


def lines_of(file: FileResult, *, quiet: bool = False) -> Iterator[str]:
    """The tests of a file with what is wrong in each; only the wrong ones when `quiet`."""
    if quiet and not file.failed + file.errors:
        return
    yield file.name
    yield from (f"  {fault}" for fault in file.faults)
    for result in file.results:
        if quiet and result.passed:
            continue
        word = "ok   " if result.passed else "FAIL " if result.failures else "ERROR"
        yield f"  {word} {result.scenario.name}"
        yield from (f"    {line}" for line in result.error)
        for failure in result.failures:
            yield f"    {failure.position}: {failure.message}"
            yield from (f"      {line}" for line in failure.reasons)


def summary_of(files: Sequence[FileResult]) -> str:
    """`12 tests in 3 files: 11 passed, 1 failed`."""
    tests, failed, errors = (
        sum(counts)
        for counts in zip(*((each.cases, each.failed, each.errors) for each in files), strict=True)
    )
    # The tests of a file that cannot be read are not known.
    unread = sum(bool(each.faults) for each in files)
    tests, errors = tests - unread, errors - unread
    parts = [f"{tests - failed - errors} passed"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{errors} could not be run"] if errors else []
    said = f"{counted(tests, 'test')} in {counted(len(files) - unread, 'file')}: {', '.join(parts)}"
    if not unread:
        return said
    whose = "its" if unread == 1 else "their"
    faulty = f"{counted(unread, 'file')} could not be used: none of {whose} tests ran"
    return faulty if unread == len(files) else f"{said}; {faulty}"


def coverage_lines(coverage: Coverage) -> Iterator[str]:
    """The share of outcomes, and each criterion that lacks one."""
    yield (
        f"coverage: {coverage.percent:.1f}%, {coverage.outcomes} of {coverage.outcomes_max} outcomes of"
        f" {counted(coverage.criteria, 'criterion', 'criteria')}"
    )
    for each in coverage.missing():
        description = f": {each.description}" if each.description else ""
        yield f"  {each.position}: {each.milestone}{description}: {each.missing}"
