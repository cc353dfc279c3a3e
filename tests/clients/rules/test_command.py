"""`milepost test`: exit statuses, what it prints, JUnit XML and coverage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import Result

from milepost.cli.app import app
from tests.cli_runner import CliRunner

PASSING = """as_of: 2026-11-01
journeys: [{journey: j, milestones: [{id: buyers, criteria: {event: {name: buy}}}]}]
users: {ann: {events: [{name: buy, time: 0s}]}}
tests:
  - {name: ann buys, expect: [{members: {buyers: [ann]}}]}
"""
FAILING = PASSING.replace("[ann]}}]", "[]}}]")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["test", *map(str, arguments)])


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of each kind in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("passing", PASSING),
        ("failing", FAILING),
        ("broken", PASSING.replace("as_of", "when")),
    ):
        Path(f"{name}.yaml").write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("files")
def test_what_passes_ends_with_0() -> None:
    done = run("passing.yaml")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "passing.yaml\n  ok    ann buys\n1 test in 1 file: 1 passed\n"


@pytest.mark.usefixtures("files")
def test_what_fails_ends_with_1_and_says_where_and_why() -> None:
    done = run("passing.yaml", "failing.yaml", "broken.yaml", "--quiet")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "failing.yaml",
        "  FAIL  ann buys",
        "    failing.yaml:5:42: at 0s (2026-11-01T00:00:00Z) ann is in j/buyers, and should not be",
        "      failing.yaml:2:38: in buyers",
        '        failing.yaml:2:51: count of event "buy" > 0: true, seen: 1 (decides)',
        "broken.yaml",
        "  broken.yaml:1:1: when: unknown field; the fields are as_of, time_zone, account, inputs, journeys,"
        " audiences, users, tests",
        "  broken.yaml:1:1: as_of: is required",
        "2 tests in 2 files: 1 passed, 1 failed; 1 file could not be used: none of its tests ran",
    ]


@pytest.mark.usefixtures("files")
def test_junit_xml_has_a_case_for_each_test() -> None:
    run("passing.yaml", "failing.yaml", "broken.yaml", "--junit", "results.xml")
    root = ET.parse("results.xml").getroot()
    assert [root.get(name) for name in ("tests", "failures", "errors")] == ["3", "1", "1"]
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["passing.yaml", "failing.yaml", "broken.yaml"]
    [passed] = suites["passing.yaml"]
    assert (passed.get("name"), passed.get("classname"), passed.get("line")) == (
        "ann buys",
        "passing.yaml",
        "5",
    )
    assert list(passed) == []
    [[failure]] = suites["failing.yaml"]
    assert failure.tag == "failure"
    message = "at 0s (2026-11-01T00:00:00Z) ann is in j/buyers, and should not be"
    assert failure.get("message") == message
    assert failure.text is not None
    assert failure.text.splitlines()[0] == f"failing.yaml:5:42: {message}"
    assert 'count of event "buy" > 0: true, seen: 1 (decides)' in failure.text
    [[error]] = suites["broken.yaml"]
    assert error.tag == "error"


@pytest.mark.usefixtures("files")
def test_coverage_below_the_minimum_ends_with_1() -> None:
    done = run("passing.yaml", "--coverage")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-2:] == [
        "coverage: 50.0%, 1 of 2 outcomes of 1 criterion",
        '  passing.yaml:2:51: j/buyers: count of event "buy" > 0: never false',
    ]
    assert run("passing.yaml", "--coverage-min", "50").exit_code == 0
    below = run("passing.yaml", "--coverage-min", "50.1")
    assert below.exit_code == 1
    assert below.stdout.splitlines()[-1] == "coverage is below 50.1%"


@pytest.mark.usefixtures("files")
def test_a_file_of_results_that_cannot_be_written_ends_with_1() -> None:
    done = run("passing.yaml", "--junit", "missing/results.xml")
    assert done.exit_code == 1
    assert done.stderr == "milepost: missing/results.xml: No such file or directory\n"


def test_without_the_service_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['service'] = None\nfrom milepost.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, "test", "any.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "milepost: the service is not installed: pip install milepost-server\n"
