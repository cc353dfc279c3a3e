"""`milepost test`: tests of rules, run by a real engine in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milepost.cli.documents import refuse_file
from milepost.cli.serve import require_service
from milepost.cli.text import printable
from milepost.rules import Coverage, InvalidRuleTests, Runner, read
from milepost.rules.junit import xml_of
from milepost.rules.report import FileResult, coverage_lines, lines_of, summary_of
from milepost.testing.in_process import in_process


def run_tests(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Tests as YAML or JSON.")],
    junit: Annotated[Path | None, typer.Option(help="Write the results as JUnit XML to this file.")] = None,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Show which criteria were never true, or never false.")
    ] = False,
    coverage_min: Annotated[
        float,
        typer.Option(
            metavar="PERCENT",
            help="Fail below this share of the criteria's outcomes; implies --coverage.",
            min=0,
            max=100,
        ),
    ] = 0.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show only what is wrong.")] = False,
) -> None:
    """Test rules: run the users and events of a file through its journeys, and compare the members.

    Needs no running service: a real engine in memory answers, and keeps nothing.

    Exits with status 1 when anything is not as expected. docs/testing-rules.md has the form of the files.
    """
    require_service()
    measured = Coverage() if coverage or coverage_min else None
    results: list[FileResult] = []
    with in_process() as connect:
        runner = Runner(connect, measured)
        for file in files:
            results.append(_run(runner, file))
            for line in lines_of(results[-1], quiet=quiet):
                print(printable(line), flush=True)
    print(summary_of(results))
    if measured is not None:
        print("\n".join(coverage_lines(measured)))
    if junit is not None:
        try:
            junit.write_bytes(xml_of(results))
        except OSError as error:
            refuse_file(junit, error)
    is_covered = measured is None or measured.percent >= coverage_min
    if not is_covered:
        print(f"coverage is below {coverage_min:g}%")
    if not is_covered or any(each.failed or each.errors for each in results):
        raise typer.Exit(1)


def _run(runner: Runner, file: Path) -> FileResult:
    try:
        tests = read(file)
    except InvalidRuleTests as invalid:
        return FileResult(str(file), None, faults=invalid.faults)
    return FileResult(str(file), tests, tuple(runner.run(tests)))
