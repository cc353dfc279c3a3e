"""Every command is run against a real service, from an empty store, and what it prints is compared.

The steps are in `commands.yaml`. A command without a step fails the walk over the command line, and so does a
method of the contract that no command calls.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from google.protobuf.descriptor import MethodDescriptor

from milepost.cli.app import app
from milepost.cli.ways_on import CHANGING, CREATING, LISTING
from tests.clients.fake import methods
from tests.clients.questions import questions
from tests.clients.terminal import PROGRAM, Terminal, differs, terminal
from tests.harness import EVENTUALLY_S, POLL_S, serving
from tests.spec.scenario import differences
from tests.walks import each_of
from tests.yaml_files import read_yaml

STEPS: list[dict[str, Any]] = read_yaml(Path(__file__).with_name("commands.yaml"))

OFFLINE = {
    "serve": "starts a service",
    "init": "works on a directory; tests/clients/test_cli_init.py",
    "demo": "starts a service",
    "test": "asks an engine of its own; tests/clients/rules/test_command.py",
    "sample load": "tests/clients/test_sample.py",
    "store restore": "works on a directory; tests/clients/test_cli_store.py",
    "store compact": "works on a directory; tests/clients/test_cli_store.py",
    "store upgrade": "works on a directory; tests/clients/test_cli_store.py",
    "store export": "needs a cluster; tests/service/test_move_to_cluster.py",
    "store add-shard": "needs a cluster; tests/engine/backends/clickhouse/test_adding.py",
    "store map-events": "needs a cluster; tests/engine/backends/clickhouse/test_mapped.py",
    "store unmap-events": "needs a cluster; tests/engine/backends/clickhouse/test_mapped.py",
    "store adopt": "works on a directory; tests/clients/test_cli_store.py",
}
"""Commands that this run leaves out, and why."""
FOR_PROGRAMS = {
    "IngestService.IngestEvents": "batches as they occur; files go through ImportEvents",
    "IngestService.StreamEvents": "batches as they occur; files go through ImportEvents",
    "IngestService.UpsertUsers": "batches as they occur; files go through ImportUsers",
}
"""Methods that no command calls, and why."""


def leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that is no group, by the words that call it."""
    inside = getattr(command, "commands", None)
    if inside is None:
        yield path, command
        return
    for word, each in inside.items():
        yield from leaves(each, f"{path} {word}".strip())


COMMANDS = dict(leaves(typer.main.get_command(app)))


def command_of(line: str) -> str:
    """The command that a line calls."""
    words = line.removeprefix(PROGRAM).split()
    return next(found for count in (2, 1) if (found := " ".join(words[:count])) in COMMANDS)


def options_of(command: str) -> set[str]:
    return {option for each in COMMANDS[command].params for option in each.opts}


SUCCEEDING = {command_of(step["run"]) for step in STEPS if "run" in step and not step.get("exit")}


# --- the walk ---


@each_of("command", sorted(COMMANDS.keys() - OFFLINE.keys()))
def test_every_command_has_a_step_that_succeeds(command: str) -> None:
    assert [
        step
        for step in STEPS
        if "run" in step and not step.get("exit") and command_of(step["run"]) == command
    ]


@each_of("command", sorted(COMMANDS))
def test_every_command_and_option_says_what_it_does(command: str) -> None:
    found = COMMANDS[command]
    assert found.help
    assert [each.name for each in found.params if not getattr(each, "help", None)] == []


@each_of("command", sorted(COMMANDS))
def test_what_shows_a_resource_shows_it_as_json_too(command: str) -> None:
    if command.split()[-1] in ("list", "show", "create", "edit", "activate", "deactivate", "resume"):
        assert "as_json" in [each.name for each in COMMANDS[command].params]


WAYS_ON = [*CREATING.values(), *CHANGING.values(), *LISTING.values()]


@each_of("line", WAYS_ON)
def test_the_commands_in_messages_exist_with_their_options(line: str) -> None:
    assert {word for word in line.split() if word.startswith("--")} <= options_of(command_of(line))


# --- the run ---


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def perform(step: dict[str, Any], screen: Terminal, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The differences from what a step expects."""
    deadline = time.monotonic() + EVENTUALLY_S
    while True:
        found = _once(step, screen, monkeypatch)
        if not found or not step.get("eventually") or time.monotonic() > deadline:
            return found
        time.sleep(POLL_S)


def _once(step: dict[str, Any], screen: Terminal, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    result = screen.run(step["run"])
    if result.exit_code != step.get("exit", 0):
        return [f"exit {result.exit_code}: {result.output}"]
    wrong = differs(step.get("err", ""), result.stderr)
    if step.get("secret"):
        # What later steps send.
        monkeypatch.setenv("MILEPOST_API_KEY", re.findall(r"^secret +(\S+)$", result.stdout, re.MULTILINE)[0])
    if "json" in step:
        return [*filter(None, [wrong]), *differences(step["json"], json.loads(result.stdout), "json")]
    return list(filter(None, (differs(step.get("out", ""), result.stdout), wrong)))


def test_every_command_prints_what_its_step_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "outputs" / "acme" / "blocked"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file in the place of a directory")
    settings = {"output_dir": tmp_path / "outputs", "backup_dir": tmp_path / "backups"}
    wrong: list[str] = []
    calls: dict[str, set[str]] = {}
    monkeypatch.chdir(tmp_path)
    with (
        serving(tmp_path / "store", access_log="none", retry_budget_s=0.1, **settings) as service,
        terminal(service.address, "acme") as screen,
    ):
        for step in STEPS:
            if "file" in step:
                Path(step["file"]).write_text(step["text"], encoding="utf-8")
                continue
            wrong += [f"{step['run']}: {line}" for line in perform(step, screen, monkeypatch)]
            calls.setdefault(command_of(step["run"]), set()).update(screen.calls)
    if wrong:
        pytest.fail("\n".join(wrong))
    # No command without a method of the contract, and no method without a command.
    assert [command for command, called in calls.items() if not called] == []
    # What asks a question asks it for an instant. Edits show the sizes of what they change now.
    asking = {path_of(method) for method in methods() if method.name in questions()}
    asked_for_now = {
        command
        for command, called in calls.items()
        if called & asking and "--as-of" not in options_of(command)
    }
    assert asked_for_now == {"journey apply", "milestone edit", "milestone move"}
    for_programs = {f"/milepost.v1.{name.replace('.', '/')}" for name in FOR_PROGRAMS}
    uncalled = {path_of(method) for method in methods()} - set().union(*calls.values())
    assert uncalled == for_programs
