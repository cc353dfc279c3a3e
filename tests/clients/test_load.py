"""The load harnesses: short runs against a real service, and what they refuse."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.load import calls, profile, runners
from clients.load.__main__ import main
from milepost import Client
from tests.harness import Serving, serving

GHZ = sorted((Path(profile.PROFILES).parent / "ghz").glob("*.json"))
CALLS = 40
LONG_ENOUGH = "120"


def needs(program: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(program) if program == "locust" else shutil.which(program)
    return pytest.mark.skipif(found is None, reason=f"{program} is not installed")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("load") / "store", access_log="none") as made:
        with Client(made.address, account=calls.ACCOUNT) as client:
            calls.build(client, 50)
        yield made


@needs("locust")
def test_a_short_run_counts_its_calls_without_an_error(
    service: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["short", "--target", service.address, "--calls", str(CALLS), "--seconds", LONG_ENOUGH]
    assert main([*options, "--calls-per-second", "0"]) == 0
    printed = capsys.readouterr().out.splitlines()
    used = profile.read(profile.find("short"))
    assert printed[0] == f"profile short: {used.users} callers, as fast as answers come, {LONG_ENOUGH} s"
    lines = [line.split("│")[1:-1] for line in printed if "│" in line]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines if cells[1].strip()}
    assert set(rows) <= {name for name, _ in calls.CALLS.values()} | {"CheckMembership, not"}
    assert sum(int(counted.replace(",", "")) for counted, *_ in rows.values()) >= CALLS
    assert {errors for _, errors, *_ in rows.values()} == {"0"}


@needs("locust")
def test_failed_calls_are_counted_and_decide_the_status(service: Serving) -> None:
    with Client(service.address, account="empty") as client:
        client.ensure_account()
    asked = profile.Profile(users=2, calls_per_second=0, seconds=120, customers=10, mix={"check": 1})
    [row] = runners.run_locust(asked, service.address, "empty", calls=20)
    assert row.call == "CheckMembership"
    assert row.errors == row.calls >= 20
    assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms
    assert row.per_second > 0


@needs("h2load")
@pytest.mark.parametrize("file", GHZ, ids=lambda file: file.stem)
def test_h2load_makes_the_call_of_a_file(file: Path, service: Serving) -> None:
    [row] = runners.run_h2load(runners.read_call(file), service.address, seconds=1)
    assert row.calls > 0
    assert row.errors == 0


@pytest.mark.parametrize("file", GHZ, ids=lambda file: file.stem)
def test_every_file_of_ghz_is_a_call_that_the_service_answers(file: Path, service: Serving) -> None:
    call = runners.read_call(file)
    runners._require_answer(call, service.address)
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["call"] == f"{call.method.containing_service.full_name}/{call.method.name}"


def test_a_call_that_is_refused_is_not_measured(service: Serving, tmp_path: Path) -> None:
    written = json.loads(GHZ[0].read_text(encoding="utf-8")) | {
        "call": "milepost.v1.AudienceService/CheckMembership",
        "data": {"audience": "accounts/load/journeys/load/milestones/none", "userId": "u"},
    }
    file = tmp_path / "call.json"
    file.write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(runners.RunFailed, match="NOT_FOUND"):
        runners._require_answer(runners.read_call(file), service.address)
    file.write_text(json.dumps(written | {"call": "milepost.v1.AudienceService/Check"}), encoding="utf-8")
    with pytest.raises(runners.RunFailed, match="there is no call"):
        runners.read_call(file)


def test_every_profile_is_valid_and_the_short_one_makes_every_call() -> None:
    read = {path.stem: profile.read(path) for path in profile.PROFILES.glob("*.yaml")}
    assert set(read["short"].mix) == set(calls.CALLS)
    assert {"request-path", "studio"} <= set(read)
    assert profile.find("studio") == profile.PROFILES / "studio.yaml"
    assert profile.find("mine.yaml") == Path("mine.yaml")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("users: 0", "users must be a whole number of at least 1"),
        ("seconds: 0", "seconds must be positive"),
        ("mix: {chekc: 1}", "there is no call 'chekc'; there are check, "),
        ("mix: {check: 0}", "some must be positive"),
        ("mix: 7", "mix must have a whole number for each call"),
        ("seconds: soon", "seconds must be a number, not 'soon'"),
        (
            "custmers: 7",
            "there is no key 'custmers', did you mean 'customers'? The keys: 'calls_per_second', ",
        ),
        ("mix: [", "is not YAML"),
    ],
)
def test_a_profile_that_cannot_be_used_says_why(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = line.partition(":")[0]
    kept = [each for each in (profile.PROFILES / "short.yaml").read_text().splitlines() if "mix" not in each]
    others = [each for each in kept if each[:1].isalpha() and not each.startswith(key)]
    mix = [] if key == "mix" else ["mix: {check: 1}"]
    file = tmp_path / "mine.yaml"
    file.write_text("\n".join([*others, *mix, line]), encoding="utf-8")
    assert main([str(file), "--target", "127.0.0.1:1"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "studo",
            "there is no profile 'studo', did you mean 'studio'? The profiles: 'request-path', 'short', ",
        ),
        ("short --with h2load", "--with has no effect here"),
        (f"{GHZ[0]} --users 3", "--users has no effect here"),
        (f"{GHZ[0]} --account mine", "--account has no effect here"),
        (f"{GHZ[0]} --calls-per-second 3", "--calls-per-second has no effect here"),
        (f"{GHZ[0]} --calls 3", "--calls has no effect here"),
    ],
)
def test_a_line_that_cannot_be_used_starts_no_service(
    line: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr("clients.load.__main__.ServiceProcess", started.append)
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err
    assert not started


def test_a_service_that_refuses_is_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 1. Nothing listens there.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{free.getsockname()[1]}"
        assert main(["short", "--target", nowhere]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("load: UNAVAILABLE")
    assert len(said) == 2
    # 2. The service needs a key, and this one is not its.
    with serving(tmp_path / "store", access_log="none") as locked:
        with Client(locked.address) as anyone:
            anyone.create_api_key("op", operator=True)
        monkeypatch.setenv("MILEPOST_API_KEY", "mp_nobody_nothing")
        assert main(["short", "--target", locked.address]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("load: UNAUTHENTICATED")
    assert "`milepost key create`" in said[1]
