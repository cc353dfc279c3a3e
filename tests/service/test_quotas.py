"""What an account has is limited by its quotas, which only operators change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from engine.limits import DEFAULT_QUOTAS, QUOTA_FIELDS, SLOTS_PERCENT_MAX
from engine.resources import quotas
from engine.resources.quotas import COUNTED
from milepost.v1 import (
    account_pb2,
    account_service_pb2,
    connection_pb2,
    connection_service_pb2,
    criteria_pb2,
    ingest_service_pb2,
    journey_pb2,
    journey_service_pb2,
)
from tests.harness import ACCOUNT, INPUT, WORKSPACE, Serving, Stubs, read_refusal, refusal_of, serving
from tests.service.auth.keyed import Keyed, keyed

JOURNEY = f"{ACCOUNT}/journeys/j"
EVERYONE = criteria_pb2.Criteria(all_of=criteria_pb2.CriteriaList())


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store") as running:
        running.create_inputs()
        running.journeys.CreateJourney(
            journey_service_pb2.CreateJourneyRequest(parent=ACCOUNT, journey_id="j")
        )
        running.journeys.CreateMilestone(milestone("m"))
        running.connections.CreateOutput(output("o"))
        yield running


def set_quotas(stubs: Stubs, **quotas: int) -> account_pb2.Account:
    """Sets quotas; the others get their defaults."""
    account = account_pb2.Account(name=ACCOUNT, quotas=account_pb2.AccountQuotas(**quotas))
    request = account_service_pb2.UpdateAccountRequest(
        account=account, update_mask=FieldMask(paths=["quotas"])
    )
    return stubs.accounts.UpdateAccount(request).account


def milestone(milestone_id: str, journey: str = JOURNEY) -> journey_service_pb2.CreateMilestoneRequest:
    return journey_service_pb2.CreateMilestoneRequest(
        parent=journey, milestone_id=milestone_id, milestone=journey_pb2.Milestone(criteria=EVERYONE)
    )


def output(output_id: str) -> connection_service_pb2.CreateOutputRequest:
    return connection_service_pb2.CreateOutputRequest(
        parent=ACCOUNT, output_id=output_id, output=connection_pb2.Output(watch=connection_pb2.WatchOutput())
    )


def create_workspace(stubs: Stubs, name: str) -> tuple[Any, Any]:
    request = account_service_pb2.CreateWorkspaceRequest(parent=ACCOUNT, workspace_id=name)
    return stubs.accounts.CreateWorkspace, request


def create_input(stubs: Stubs, name: str) -> tuple[Any, Any]:
    request = account_service_pb2.CreateInputRequest(parent=WORKSPACE, input_id=name)
    return stubs.accounts.CreateInput, request


def create_journey(stubs: Stubs, name: str) -> tuple[Any, Any]:
    request = journey_service_pb2.CreateJourneyRequest(parent=ACCOUNT, journey_id=name)
    return stubs.journeys.CreateJourney, request


def clone_journey(stubs: Stubs, name: str) -> tuple[Any, Any]:
    request = journey_service_pb2.CloneJourneyRequest(name=JOURNEY, journey_id=name)
    return stubs.journeys.CloneJourney, request


def apply_journey(stubs: Stubs, name: str) -> tuple[Any, Any]:
    document = journey_pb2.JourneyDocument(journey=name)
    document.milestones.add(id="m", criteria=EVERYONE)
    request = journey_service_pb2.ApplyJourneyRequest(parent=ACCOUNT, document=document)
    return stubs.journeys.ApplyJourney, request


def create_milestone(stubs: Stubs, name: str) -> tuple[Any, Any]:
    return stubs.journeys.CreateMilestone, milestone(name)


def create_output(stubs: Stubs, name: str) -> tuple[Any, Any]:
    return stubs.connections.CreateOutput, output(name)


def create_connection(stubs: Stubs, name: str) -> tuple[Any, Any]:
    found = stubs.journeys.GetMilestone(
        journey_service_pb2.GetMilestoneRequest(name=f"{JOURNEY}/milestones/m")
    )
    request = connection_service_pb2.CreateConnectionRequest(
        parent=ACCOUNT,
        connection_id=name,
        connection=connection_pb2.Connection(
            audience=found.milestone.audience, output=f"{ACCOUNT}/outputs/o"
        ),
    )
    return stubs.connections.CreateConnection, request


Create = Callable[[Stubs, str], tuple[Any, Any]]
CASES: list[tuple[str, int, Create]] = [
    ("workspaces", 1, create_workspace),
    ("inputs", 1, create_input),
    ("journeys", 1, create_journey),
    ("journeys", 1, clone_journey),
    ("journeys", 1, apply_journey),
    ("milestones", 1, create_milestone),
    ("milestones", 1, clone_journey),
    ("milestones", 1, apply_journey),
    ("outputs", 1, create_output),
    ("connections", 0, create_connection),
]
"""What is counted, how many there are, and a call that creates one."""


def test_every_quota_has_a_case() -> None:
    assert {what for what, _, _ in CASES} == set(COUNTED.values())
    of_calls = ["calls_per_second_max", "in_flight_max"]  # tests/service/auth/test_limits.py
    of_slots = ["slots_percent_max"]  # tests/service/auth/test_shares.py
    others = ["record_bytes_max", "names_max", *of_calls, *of_slots]
    assert [f"{what}_max" for what in COUNTED.values()] + others == [*QUOTA_FIELDS]
    assert [field.name for field in account_pb2.AccountQuotas.DESCRIPTOR.fields] == [*QUOTA_FIELDS]


@pytest.mark.parametrize(("what", "there", "create"), CASES)
def test_an_account_has_no_more_than_its_quota(
    service: Serving, what: str, there: int, create: Create
) -> None:
    set_quotas(service, **{f"{what}_max": there + 2})
    for name in ("first", "second"):
        call, request = create(service, name)
        call(request)
    refusal = refusal_of(*create(service, "third"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    assert refusal.metadata == {
        "quota": f"quotas.{what}_max",
        "limit": str(there + 2),
        "count": str(there + 2),
    }
    assert refusal.message == (
        f"{ACCOUNT} has {there + 2} of {there + 2} {what}: delete some, or ask an operator to raise "
        f"quotas.{what}_max"
    )
    set_quotas(service, **{f"{what}_max": there + 3})
    call, request = create(service, "third")
    call(request)


def test_counts_outlive_a_restart_and_follow_deletions(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as service:
        service.create_inputs()
        set_quotas(service, workspaces_max=2)
        create, request = create_workspace(service, "second")
        create(request)
    with serving(tmp_path / "store") as service:
        assert refusal_of(*create_workspace(service, "third")).metadata["count"] == "2"
        deletion = account_service_pb2.DeleteWorkspaceRequest(name=f"{ACCOUNT}/workspaces/second")
        service.accounts.DeleteWorkspace(deletion)
        create, request = create_workspace(service, "third")
        create(request)
        # An account over a lowered quota can change and delete what it has.
        set_quotas(service, workspaces_max=1)
        update = account_service_pb2.UpdateWorkspaceRequest(
            workspace=account_pb2.Workspace(name=WORKSPACE, display_name="Shop")
        )
        service.accounts.UpdateWorkspace(update)
        service.accounts.DeleteWorkspace(
            account_service_pb2.DeleteWorkspaceRequest(name=f"{ACCOUNT}/workspaces/third")
        )
        assert refusal_of(*create_workspace(service, "third")).metadata["count"] == "1"


def test_bytes_of_records_are_limited(service: Serving) -> None:
    set_quotas(service, record_bytes_max=20_000)
    large = milestone("large")
    any_of = large.milestone.criteria.any_of.criteria
    for number in range(10):
        any_of.add().user_attribute.key = "k"
        any_of[number].user_attribute.test.one_of.values.add(string_value="x" * 1_000)
    service.journeys.CreateMilestone(large)
    large.milestone_id = "again"
    refusal = refusal_of(service.journeys.CreateMilestone, large)
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.metadata["quota"] == "quotas.record_bytes_max"
    assert 10_000 < int(refusal.metadata["count"]) < 12_000
    # What takes less is no more refused than before, and past versions are dropped instead.
    for text in ("y", "z") * 3:
        for each in any_of:
            each.user_attribute.test.one_of.values[0].string_value = text * 1_000
        changed = journey_pb2.Milestone(name=f"{JOURNEY}/milestones/large", criteria=large.milestone.criteria)
        service.journeys.UpdateMilestone(journey_service_pb2.UpdateMilestoneRequest(milestone=changed))
    versions = journey_service_pb2.ListJourneyVersionsRequest(parent=JOURNEY)
    assert len(service.journeys.ListJourneyVersions(versions).versions) == 2
    service.journeys.DeleteMilestone(
        journey_service_pb2.DeleteMilestoneRequest(name=f"{JOURNEY}/milestones/large")
    )


def test_answers_kept_for_repeated_requests_count_as_bytes(tmp_path: Path) -> None:
    def request(number: int) -> connection_service_pb2.CreateOutputRequest:
        made = output(f"o{number}")
        made.request_id = f"request {number}"
        made.output.display_name = "x" * 100
        return made

    answers: list[connection_service_pb2.CreateOutputResponse] = []
    with serving(tmp_path / "store") as service:
        service.create_inputs()
        set_quotas(service, record_bytes_max=2_000)
        while len(answers) < 100:
            try:
                answers.append(service.connections.CreateOutput(request(len(answers))))
            except grpc.RpcError as error:
                refusal = read_refusal(error)
                break
            deletion = connection_service_pb2.DeleteOutputRequest(name=answers[-1].output.name)
            service.connections.DeleteOutput(deletion)
    assert refusal.metadata["quota"] == "quotas.record_bytes_max"
    assert 1_500 < int(refusal.metadata["count"]) <= 2_000
    # They count after a restart too, and are still given.
    with serving(tmp_path / "store") as service:
        create = service.connections.CreateOutput
        assert create(request(0)).output == answers[0].output
        assert refusal_of(create, request(len(answers))).metadata == refusal.metadata


def test_names_of_data_are_limited(service: Serving) -> None:
    set_quotas(service, names_max=2)
    request = ingest_service_pb2.IngestEventsRequest(parent=ACCOUNT, input=INPUT)
    for name in ("a", "b", "c", "a"):
        request.events.add(user_id="ada", name=name).time.FromSeconds(1_790_000_000)
    answer = service.ingest.IngestEvents(request)
    assert answer.accepted == 3
    [rejection] = answer.rejections
    assert (rejection.index, rejection.reason) == (2, "TOO_MANY_NAMES")
    assert rejection.description.endswith("or ask an operator for a higher limit")


def test_quotas_have_defaults_and_are_replaced_together(service: Serving) -> None:
    defaults = {name: getattr(DEFAULT_QUOTAS, name) for name in QUOTA_FIELDS}
    get = account_service_pb2.GetAccountRequest(name=ACCOUNT)

    def quotas_of(account: account_pb2.Account) -> dict[str, int]:
        return {name: getattr(account.quotas, name) for name in QUOTA_FIELDS}

    assert quotas_of(service.accounts.GetAccount(get).account) == defaults
    assert quotas_of(set_quotas(service, journeys_max=7)) == {**defaults, "journeys_max": 7}
    assert quotas_of(set_quotas(service, inputs_max=8)) == {**defaults, "inputs_max": 8}
    etag = set_quotas(service).etag
    assert set_quotas(service, **defaults).etag == etag
    bad = account_service_pb2.UpdateAccountRequest(
        account=account_pb2.Account(name=ACCOUNT, quotas=account_pb2.AccountQuotas(names_max=-1))
    )
    assert refusal_of(service.accounts.UpdateAccount, bad).violations == {
        "account.quotas.names_max": "must not be negative"
    }


# --- who may change them ------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Keyed]:
    with keyed(tmp_path / "store") as made:
        made.operator.create_inputs()
        yield made


def largest(quota: str) -> int:
    return SLOTS_PERCENT_MAX if quota.endswith("_percent_max") else 2**31 - 1


@pytest.mark.parametrize(
    "fields",
    [
        {"active_audience_limit": 2**31 - 1},
        *({"quotas": account_pb2.AccountQuotas(**{name: largest(name)})} for name in QUOTA_FIELDS),
    ],
    ids=["active_audience_limit", *QUOTA_FIELDS],
)
@pytest.mark.parametrize("is_masked", [False, True])
def test_only_operators_change_what_limits_an_account(
    site: Keyed, fields: dict[str, Any], is_masked: bool
) -> None:
    admin = site.with_key(ACCOUNT, "admin", "ADMIN")
    request = account_service_pb2.UpdateAccountRequest(
        account=account_pb2.Account(name=ACCOUNT, display_name="Mine", **fields),
        update_mask=FieldMask(paths=["*"]) if is_masked else None,
    )
    refusal = refusal_of(admin.accounts.UpdateAccount, request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    assert refusal.metadata == {"scope": "SCOPE_OPERATOR"}
    assert site.operator.accounts.UpdateAccount(request).account.display_name == "Mine"


def test_an_account_may_send_back_the_limits_that_it_has(site: Keyed) -> None:
    admin = site.with_key(ACCOUNT, "admin", "ADMIN")
    account = admin.accounts.GetAccount(account_service_pb2.GetAccountRequest(name=ACCOUNT)).account
    account.display_name = "Mine"
    for mask in (None, FieldMask(paths=["*"])):
        request = account_service_pb2.UpdateAccountRequest(account=account, update_mask=mask)
        account = admin.accounts.UpdateAccount(request).account
    assert account.display_name == "Mine"


def test_the_milestones_of_a_journey_have_a_size_together(
    service: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "JOURNEY_BYTES_MAX", 20_000)

    def create(number: int, texts: int) -> tuple[Any, Any]:
        criteria = criteria_pb2.Criteria()
        criteria.user_attribute.key = "k"
        for text in range(texts):
            criteria.user_attribute.test.one_of.values.add(string_value=f"{text:010}")
        milestone = journey_pb2.Milestone(display_name=f"m{number}", criteria=criteria)
        request = journey_service_pb2.CreateMilestoneRequest(
            parent=JOURNEY, milestone_id=f"m{number}", milestone=milestone
        )
        return service.journeys.CreateMilestone, request

    call, request = create(1, 1_000)
    first = call(request).milestone
    refusal = refusal_of(*create(2, 1_000))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    assert refusal.metadata["limit"] == "20000"
    assert refusal.metadata["resource"] == JOURNEY
    # Nothing was written, so there is room for a smaller one, and for what a deletion frees.
    call, request = create(2, 10)
    call(request)
    service.journeys.DeleteMilestone(journey_service_pb2.DeleteMilestoneRequest(name=first.name))
    call, request = create(3, 1_000)
    call(request)
