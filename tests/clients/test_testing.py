"""`milepost.testing`: a real service whose time can be moved, for tests of services that use Milepost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from milepost import Client, make_event, testing
from milepost.errors import NotFound
from milepost.outputs import FileOutput
from milepost.rules import InvalidRuleTests
from milepost.rules.loading import Refused
from tests.harness import eventually

NOW = datetime(2026, 11, 1, 10, tzinfo=UTC)
SEED = """
inputs: [shop/web]
journeys:
  - journey: j
    milestones:
      - {id: buyers, criteria: {event: {name: buy, window: {last: 30d}}}}
      - {id: rest, remaining_users: true}
users:
  ann: {events: [{name: buy, time: -1d}]}
  bob: {events: [{name: buy, time: -40d}]}
"""


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    file = tmp_path / "seed.yaml"
    file.write_text(SEED, encoding="utf-8")
    return file


def members(client: Client, milestone: str) -> list[str]:
    return sorted(client.list_members(milestone))


def test_time_stands_still_until_it_is_moved(seed: Path) -> None:
    with testing.service(now=NOW, seed=seed) as service:
        assert service.clock.now == NOW
        assert service.client.account_id == "test"
        assert (members(service.client, "j/buyers"), members(service.client, "j/rest")) == (["ann"], ["bob"])
        assert service.clock.advance("29d") == NOW + timedelta(days=29)
        assert members(service.client, "j/buyers") == []
        assert service.clock.advance_to("2026-12-01T12:00:00Z") == NOW + timedelta(days=30, hours=2)
        assert service.clock.now == NOW + timedelta(days=30, hours=2)
        with pytest.raises(ValueError, match="time only moves ahead"):
            service.clock.advance_to(NOW)
        with pytest.raises(ValueError, match="time only moves ahead"):
            service.clock.advance(timedelta(seconds=-1))


def test_without_an_instant_it_is_the_machine_s_time_and_goes_on() -> None:
    before = datetime.now(UTC)
    with testing.service() as service:
        first = service.clock.now
        assert abs(first - before) < timedelta(hours=1)
        assert service.clock.advance("30d") >= first + timedelta(days=30)
        assert eventually(lambda: service.clock.now > first + timedelta(days=30))


def test_changes_flow_to_watchers_and_outputs_when_time_moves(seed: Path) -> None:
    with testing.service(now=NOW, seed=seed) as service:
        client = service.client
        files = client.ensure_output("files", FileOutput(path="files"))
        client.ensure_connection("buyers", target="j/buyers", output=files.name)
        client.activate_connection("buyers")
        file = service.directory / "outputs" / "test" / "files" / "buyers.ndjson"

        def delivered() -> list[tuple[str, str]]:
            lines = file.read_text("utf-8").splitlines() if file.exists() else []
            events = [json.loads(line) for line in lines]
            return [(each["type"].rpartition(".")[2], each.get("subject", "")) for each in events]

        assert eventually(lambda: ("entered", "ann") in delivered())
        service.clock.advance("28d23h")
        assert client.get_audience("j/buyers").size.size.users == 1
        service.clock.advance("1h")
        # The audience is what it is at the new time already; the line in the file follows.
        assert client.get_audience("j/buyers").size.size.users == 0
        assert eventually(lambda: ("exited", "ann") in delivered())
        client.ingest_events([make_event("cid", "buy", service.clock.now)], input="shop/web")
        assert eventually(lambda: ("entered", "cid") in delivered())
        assert members(client, "j/buyers") == ["cid"]


def test_a_store_in_a_directory_stays_and_one_in_memory_does_not(tmp_path: Path, seed: Path) -> None:
    with testing.service(tmp_path / "store", now=NOW, seed=seed) as service:
        assert service.directory == tmp_path / "store"
    with testing.service(tmp_path / "store", now=NOW) as service:
        assert members(service.client, "j/buyers") == ["ann"]
    with testing.service(now=NOW) as service:
        directory = service.directory
        with pytest.raises(NotFound):
            service.client.get_journey("j")
        assert next(service.client_for("other").list_accounts()).name == "accounts/test"
    assert not directory.exists()


def test_a_seed_with_faults_says_where(tmp_path: Path) -> None:
    file = tmp_path / "seed.yaml"
    with testing.service(now=NOW) as service:
        file.write_text("users: {ann: {events: [{name: buy}]}}", encoding="utf-8")
        with pytest.raises(
            InvalidRuleTests, match=r"seed.yaml:1:24: users.ann.events\[0\].time: is required"
        ):
            service.load(file)
        file.write_text("users: {ann: {events: [{name: buy, time: 2d}]}}", encoding="utf-8")
        with pytest.raises(Refused, match=r"seed.yaml:1:24: users.ann.events\[0\]: .*24 h ahead"):
            service.load(file)


def test_rules_are_run_from_python(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(
        f"as_of: 2026-11-01\n{SEED}\ntests: [{{name: t, expect: [{{members: {{buyers: [ann]}}}}]}}]", "utf-8"
    )
    [result] = testing.run_rules(file)
    assert (result.scenario.name, result.passed) == ("t", True)


def test_without_the_service_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['service'] = None\n"
        "from milepost import testing\n"
        "try:\n    testing.service().__enter__()\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "milepost.testing runs the service: pip install milepost-server\n"


# --- fixtures of pytest ---


def test_the_fixtures_are_a_service_and_its_client(
    milepost_service: testing.Service, milepost_client: Client
) -> None:
    assert milepost_client is milepost_service.client
    assert milepost_client.get_account().name == "accounts/test"


@pytest.mark.milepost(now=NOW, seed="testing_seed.yaml", groups=1)
def test_a_marker_says_how_the_service_starts(milepost_service: testing.Service) -> None:
    assert milepost_service.clock.now == NOW
    assert members(milepost_service.client, "winback/lapsed") == ["ann"]
    milepost_service.clock.advance("2d")
    assert members(milepost_service.client, "winback/lapsed") == ["ann", "bob"]


# --- the page ---


def test_the_examples_on_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
    with_pytest, without, _ = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(with_pytest, "testing.md", "exec"), names)
    [marker] = names["test_buyers_leave_after_thirty_days"].pytestmark
    with testing.service(**marker.kwargs) as service:
        names["test_buyers_leave_after_thirty_days"](service)
    monkeypatch.chdir(tmp_path)
    seed.rename("shop.yaml")
    exec(compile(without, "testing.md", "exec"), {})
