"""The journeys in docs/examples from the command line alone, starting from an empty store on a real port.

Each line is one that a person would type: for an account, inputs, files of data, the three journeys,
activation, edits, deletion. Sizes are compared with those counted by hand in `test_example_journeys.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from milepost.cli.app import app
from milepost.cli.service_process import ServiceProcess
from milepost.instants import text_of
from tests.cli_runner import CliRunner
from tests.harness import eventually
from tests.spec.example_shop import INPUTS, Customer, draw_shop
from tests.spec.test_example_journeys import BY_HAND, DAY, SEED, Example, happened

MILEPOST = Path(sys.executable).with_name("milepost")
ACCOUNT = "shop-eu"
NOW = datetime.now(UTC)
AS_OF = ("--as-of", text_of(NOW))
CHURN, CONSENT, VALUE = BY_HAND
CONSENTS = {
    f"{regulation}_{purpose}": f"{regulation}/{purpose}"
    for regulation in ("gdpr", "ccpa")
    for purpose in ("marketing", "analytics")
}
"""Columns of the files of consents, and what each is about."""


@dataclass(frozen=True)
class Shell:
    """A terminal in a directory; the service and the account are in its environment."""

    directory: Path

    def run(self, line: str, *more: str, exit_code: int = 0) -> str:
        """What a command prints: to the standard error when it fails, as it must with that status."""
        result = CliRunner().invoke(app, [*line.split(), *more])
        assert result.exit_code == exit_code, f"{line}: {result.output}"
        return result.stderr if exit_code else result.stdout

    def run_process(self, line: str) -> str:
        """What the installed command prints; each start of a process takes about half a second."""
        done = subprocess.run([MILEPOST, *line.split()], capture_output=True, text=True, check=True)
        return done.stdout

    def json(self, line: str, *more: str) -> Any:
        """What a command prints as JSON."""
        return json.loads(self.run(line, *more, "--json"))

    def sizes(self, journey: str) -> dict[str, int]:
        """The users of each milestone; "" is the start."""
        answer = self.json(f"journey funnel {journey}", *AS_OF)
        steps = {step["milestone"].rpartition("/")[2]: int(step["users"]) for step in answer["steps"]}
        return {"": int(answer["population"]), **steps}

    def members(self, audience: str, *more: str) -> set[str]:
        return set(self.run(f"members {audience}", *more).splitlines())

    def write(self, name: str, text: str) -> str:
        """Writes a file and gives its name."""
        (self.directory / name).write_text(text, encoding="utf-8")
        return name


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    flags = ("--log-level", "warning", "--output-dir", str(tmp_path / "outputs"))
    with ServiceProcess(tmp_path / "store", flags=flags) as service:
        monkeypatch.setenv("MILEPOST_TARGET", service.target)
        monkeypatch.setenv("MILEPOST_ACCOUNT", ACCOUNT)
        monkeypatch.chdir(tmp_path)
        yield Shell(tmp_path)


def by_hand(example: Example, customers: list[Customer]) -> dict[str, int]:
    return {milestone: len(users) for milestone, users in example.members(customers, NOW).items()}


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def events_of(customers: list[Customer], input_id: str) -> str:
    return lines(
        [
            {
                "user_id": customer.id,
                "name": deed.name,
                "time": text_of(deed.time),
                "event_id": f"{customer.id}-{number}",
                **deed.attributes,
            }
            for customer in customers
            for number, deed in enumerate(customer.deeds)
            if deed.input == input_id
        ]
    )


def users_of(customers: list[Customer], input_id: str) -> str:
    own = [customer for customer in customers if customer.profile_input == input_id]
    profiles = [
        {"user_id": customer.id, "time": text_of(NOW), **customer.attributes}
        for customer in own
        if customer.attributes
    ]
    consents = [
        {
            "user_id": customer.id,
            "time": text_of(time),
            f"{regulation}_{purpose}": "given" if is_given else "denied",
        }
        for customer in own
        for time, regulation, purpose, is_given in customer.consents
    ]
    return lines([*profiles, *consents])


def split_of(example: Example) -> list[dict[str, Any]]:
    split: list[dict[str, Any]] = yaml.safe_load(example.file.read_text(encoding="utf-8"))["milestones"]
    return split


def create(shell: Shell, journey: str, split: list[dict[str, Any]], parent: str = "") -> None:
    """Creates the milestones of a document one by one, with a file of criteria for each."""
    for milestone in split:
        line = f"milestone create {journey}/{milestone['id']}"
        if milestone.get("remaining_users"):
            line += " --remaining-users"
        else:
            # As JSON and as YAML, by turns.
            as_json = len(milestone["id"]) % 2 == 0
            text = (json.dumps if as_json else yaml.safe_dump)(milestone["criteria"])
            line += " --criteria " + shell.write(milestone["id"] + (".json" if as_json else ".yaml"), text)
        line += f" --parent {parent}" if parent else ""
        shell.run(line, "--display-name", milestone["display_name"])
        create(shell, journey, milestone.get("children", []), milestone["id"])


def load(shell: Shell, customers: list[Customer]) -> None:
    """An account, its inputs and their data. The first command says what creates an account."""
    refused = shell.run("journey list", exit_code=1)
    assert f"`milepost account create {ACCOUNT}` creates it" in refused
    shell.run_process(f"account create {ACCOUNT} --time-zone Europe/Paris")
    shell.run("workspace create shop")
    for input_id in INPUTS:
        shell.run(f"input create shop/{input_id}")
        events = shell.write(f"{input_id}.ndjson", events_of(customers, input_id))
        taken = shell.run_process(f"import {events} --input shop/{input_id}")
        assert f"{events_of(customers, input_id).count(chr(10)):,} events taken" in taken
        users = shell.write(f"{input_id}-users.ndjson", users_of(customers, input_id))
        columns = [word for column, what in CONSENTS.items() for word in ("--consent", f"{column}:{what}")]
        shell.run(f"import {users} --users --input shop/{input_id}", *columns)


def build(shell: Shell, customers: list[Customer]) -> None:
    """One journey as a file, counted before it is applied; the others milestone by milestone."""
    churn = str(CHURN.file)
    previewed = shell.json(f"journey preview {churn}", *AS_OF)
    assert {step["milestone"]: int(step["users"]) for step in previewed["steps"]} == {
        milestone: users for milestone, users in by_hand(CHURN, customers).items() if milestone
    }
    assert "6 milestones created" in shell.run(f"journey apply {churn}")
    for example in (CONSENT, VALUE):
        document = yaml.safe_load(example.file.read_text(encoding="utf-8"))
        inputs = [word for each in document["inputs"] for word in ("--input", each)]
        shell.run(f"journey create {example.name}", "--display-name", document["display_name"], *inputs)
        create(shell, example.name, split_of(example))
    for example in BY_HAND:
        assert shell.run(f"journey diff {example.file}").startswith("no changes: ")
        assert shell.sizes(example.name) == by_hand(example, customers), example.name


def ask(shell: Shell, customers: list[Customer]) -> None:
    """Questions for one instant agree."""
    opened = CHURN.members(customers, NOW)["opened"]
    estimate = shell.json("estimate churn-risk/opened --exact", *AS_OF)
    assert int(estimate["size"]["users"]) == int(estimate["labelled"][0]["size"]["users"]) == len(opened)
    assert int(shell.json("count churn-risk/opened", *AS_OF)["users"]) == len(opened)
    assert shell.members("churn-risk/opened", *AS_OF) == opened
    user, other = min(opened), min(CHURN.members(customers, NOW)["by-sms"])
    checked = shell.json(f"check churn-risk/opened {user} {other}", *AS_OF)
    assert checked == {user: True, other: False}
    explained = shell.run(f"explain churn-risk/by-sms {user}", *AS_OF)
    assert f"{user} is not a member of churn-risk/by-sms" in explained
    assert "taken by opened" in explained
    audiences = {
        each["milestone"].split("/journeys/")[1] for each in shell.json(f"user audiences {user}", *AS_OF)
    }
    assert audiences == {
        f"{example.name}/milestones/{milestone}"
        for example in BY_HAND
        for milestone, members in example.members(customers, NOW).items()
        if milestone and user in members
    }
    shared = shell.json("overlap churn-risk/opened lifetime-value/high-value", *AS_OF)["intersections"]
    high_value = VALUE.members(customers, NOW)["high-value"]
    assert [int(each["users"]) for each in shared] == [len(opened), len(high_value), len(opened & high_value)]


def activate(shell: Shell) -> None:
    """Activates an audience of each journey: a file gets every member."""
    shell.run("output create files --kind file --path exports")
    for example in BY_HAND:
        audience = f"{example.name}/{example.activated}"
        shell.run(f"connection create {example.name} --audience {audience} --output files --activate")
    for example in BY_HAND:
        audience = f"{example.name}/{example.activated}"
        file = shell.directory / "outputs" / ACCOUNT / "exports" / f"{example.name}.ndjson"
        eventually(lambda: delivered(file) == shell.members(audience))  # noqa: B023
        assert shell.json(f"audience show {audience}")["activated"] is True
    assert shell.run("journey list").endswith("3 of 100 activated audiences\n")


def edit(shell: Shell, customers: list[Customer]) -> None:
    """Moves a milestone, so that it takes users of another, and changes the criteria of one."""
    moved = shell.run("milestone move churn-risk/by-sms 0")
    assert "position   0" in moved
    stay = [e_mailed(customer) for customer in customers if at_risk(customer)]
    by_sms = sum(any(NOW - 30 * DAY < time <= NOW - 5 * DAY for time in times) for times in stay)
    sizes = shell.sizes("churn-risk")
    assert sizes["by-sms"] == by_sms > by_hand(CHURN, customers)["by-sms"]
    assert sum(sizes[each] for each in ("by-sms", "opened", "waiting")) == sizes["emailed"]
    criteria = split_of(VALUE)[0]["criteria"] | {"label": "Purchases of at least 900"}
    criteria["event"]["test"]["greater_or_equal"] = 900
    file_name = shell.write("high-value.yaml", yaml.safe_dump(criteria))
    shell.run(f"milestone edit lifetime-value/high-value --criteria {file_name}")
    spent = [
        sum(float(deed.attributes["amount"]) for deed in happened(customer, {"app", "till"}, "purchase"))
        for customer in customers
    ]
    assert shell.sizes("lifetime-value")["high-value"] == sum(amount >= 900 for amount in spent)
    versions = shell.json("journey versions lifetime-value")
    assert [each["current"] for each in versions].count(True) == 1
    compared = shell.run(f"journey diff lifetime-value --version {len(versions) - 1}", *AS_OF)
    assert "changed: 0 milestones created, 1 changed, 0 deleted" in compared


def delete(shell: Shell) -> None:
    """Deletes everything in an order that the rules allow; each refusal names what stands in the way."""
    refused = shell.run("milestone delete churn-risk/at-risk", exit_code=1)
    assert "MILESTONE_HAS_CHILDREN" in refused
    assert "`milepost milestone delete`" in refused
    refused = shell.run("journey delete churn-risk", exit_code=1)
    assert "--with-milestones deletes them too" in refused
    for milestone in ("waiting", "opened", "by-sms", "to-email", "emailed", "at-risk"):
        shell.run(f"milestone delete churn-risk/{milestone} --yes")
    shell.run("journey delete churn-risk")
    for example in (CONSENT, VALUE):
        shell.run(f"journey delete {example.name} --with-milestones --yes")
    assert shell.json("journey list") == []
    assert shell.json("audience list") == []
    eventually(lambda: shell.json("connection list") == [])
    for example in BY_HAND:
        file = shell.directory / "outputs" / ACCOUNT / "exports" / f"{example.name}.ndjson"
        assert delivered(file) == set()
    shell.run("output delete files")
    assert shell.json("account show")["activeAudienceCount"] == 0


def test_three_journeys_from_an_empty_store_to_an_empty_account(shell: Shell) -> None:
    customers = draw_shop(SEED, NOW)
    load(shell, customers)
    build(shell, customers)
    ask(shell, customers)
    activate(shell)
    edit(shell, customers)
    delete(shell)


def delivered(file: Path) -> set[str]:
    """Who is a member by what was sent to a file."""
    members: set[str] = set()
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        event = json.loads(line)
        match event["type"].removeprefix("milepost."):
            case "snapshot.begin":
                members.clear()
            case "membership.entered":
                members.add(event["subject"])
            case "membership.exited":
                members.discard(event["subject"])
    return members


def e_mailed(customer: Customer) -> list[datetime]:
    """When a customer was sent the e-mail that the journey is about."""
    sent = happened(customer, {"app", "mail"}, "email_sent")
    return [deed.time for deed in sent if deed.attributes["campaign"] == "stay"]


def at_risk(customer: Customer) -> bool:
    score = customer.attributes.get("churn_score")
    return bool(customer.inputs & CHURN.inputs) and isinstance(score, float) and score >= 0.7
