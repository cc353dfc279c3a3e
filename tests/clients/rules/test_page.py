"""docs/testing-rules.md: its files are read, and its commands print what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from milepost.cli.app import app
from milepost.rules.data import EVENT_FIELDS, UPDATE_FIELDS
from milepost.rules.reading import EXPECTATION_FIELDS, FILE_FIELDS
from milepost.v1.data_pb2 import Event, UserUpdate
from milepost.written_form import written_name
from tests.clients.rules.test_mutations import EQUIVALENT, MUTATIONS
from tests.clients.terminal import Terminal, differs

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "testing-rules.md").read_text(encoding="utf-8")


def test_the_session_on_the_page_prints_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    journey, tests = re.findall(r"^```yaml\n(# gardeners.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    Path("gardeners.test.yaml").write_text(tests, encoding="utf-8")
    screen = Terminal()
    sessions = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(sessions) == 3
    for line, printed in sessions:
        is_faulty = "FAIL" in printed
        text = journey.replace("greater_or_equal", "greater_than") if is_faulty else journey
        Path("gardeners.yaml").write_text(text, encoding="utf-8")
        done = screen.run(line)
        assert done.exit_code == is_faulty
        assert not differs(printed, done.output)


def test_the_tables_on_the_page_have_every_field_and_option() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert {*FILE_FIELDS, "input", "events", "updates", *EXPECTATION_FIELDS} - {"at"} <= listed
    import typer

    command = typer.main.get_command(app).commands["test"]  # type: ignore[attr-defined]
    options = {option for each in command.params for option in each.opts if option.startswith("--")}
    assert options == set(re.findall(r"^\| `(--[\w-]+)", PAGE, re.MULTILINE))


def test_the_page_counts_the_faults_that_are_found() -> None:
    assert f"puts {len([each for each in MUTATIONS if each['named'] != EQUIVALENT])} faults" in PAGE


def test_users_and_events_have_every_field_of_the_contract() -> None:
    assert {written_name(field) for field in UserUpdate.DESCRIPTOR.fields} == {"user_id", *UPDATE_FIELDS}
    assert {written_name(field) for field in Event.DESCRIPTOR.fields} == {"user_id", *EVENT_FIELDS}
