"""API keys on a real server: who is let in, what a scope permits, rotation, expiry and revocation."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from milepost.v1 import (
    account_pb2,
    account_service_pb2,
    admin_service_pb2,
    audience_service_pb2,
    connection_pb2,
    connection_service_pb2,
    criteria_pb2,
    data_pb2,
    ingest_service_pb2,
    journey_pb2,
    journey_service_pb2,
)
from tests.harness import ACCOUNT, INPUT, bearer, eventually, read_refusal, refusal_of, serving
from tests.service.auth.keyed import Caller, Keyed, keyed

UNAUTHENTICATED = (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
REVOKED_WITHIN_S = 10.0
"""The bound of the service is a second; a busy machine may take longer."""

get_account = account_service_pb2.GetAccountRequest(name=ACCOUNT)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Keyed]:
    with keyed(tmp_path / "store") as made:
        made.operator.create_inputs()
        yield made


def code_and_reason(call: Callable[..., Any], request: Any) -> tuple[grpc.StatusCode, str]:
    refusal = refusal_of(call, request)
    return refusal.code, refusal.reason


# --- who is let in ---


def test_without_an_operator_key_every_caller_may_do_everything(tmp_path: Path) -> None:
    with serving(tmp_path / "store", access_log="none") as service:
        service.create_inputs()
        assert service.accounts.GetAccount(get_account, metadata=bearer("nonsense")).account.name == ACCOUNT


def test_a_call_without_a_valid_key_is_refused(site: Keyed) -> None:
    for metadata in (
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", site.operator.secret),),
        (("authorization", f"Basic {site.operator.secret}"),),
        bearer(site.operator.secret[:-1]),
        bearer(site.operator.secret + "x"),
        (("api-key", site.operator.secret),),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            site.service.accounts.GetAccount(get_account, metadata=metadata)
        refusal = read_refusal(refused.value)
        assert (refusal.code, refusal.reason) == UNAUTHENTICATED, metadata
        assert site.operator.secret not in refusal.message


def test_the_scheme_is_read_in_any_case_as_http_does(site: Keyed) -> None:
    metadata = (("authorization", f"bearer {site.operator.secret}"),)
    assert site.service.accounts.GetAccount(get_account, metadata=metadata).account.name == ACCOUNT


def test_health_needs_no_key_and_reflection_any(site: Keyed) -> None:
    health: Any = health_pb2_grpc.HealthStub(site.service.channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    listing = [reflection_pb2.ServerReflectionRequest(list_services="")]
    reader = site.with_key(ACCOUNT, "reader", "INGEST")
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(reader.channel)
    [listed] = stub.ServerReflectionInfo(iter(listing))
    assert listed.list_services_response.service
    bare: Any = reflection_pb2_grpc.ServerReflectionStub(site.service.channel)
    with pytest.raises(grpc.RpcError) as refused:
        list(bare.ServerReflectionInfo(iter(listing)))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


# --- scopes ---


def test_a_scope_permits_what_it_implies_and_a_refusal_names_the_scope(site: Keyed) -> None:
    ingest = ingest_service_pb2.DeleteUsersRequest(parent=ACCOUNT, user_ids=["ann"])
    create = account_service_pb2.CreateWorkspaceRequest(parent=ACCOUNT)
    update = account_service_pb2.UpdateAccountRequest(
        account=account_pb2.Account(name=ACCOUNT, display_name="A")
    )
    info = admin_service_pb2.GetServerInfoRequest()
    permitted = {
        "INGEST": {"INGEST"},
        "READ": {"READ"},
        "MANAGE": {"READ", "MANAGE"},
        "ADMIN": {"READ", "INGEST", "MANAGE", "ADMIN"},
        "OPERATOR": {"READ", "INGEST", "MANAGE", "ADMIN", "OPERATOR"},
    }
    for scope, expected in permitted.items():
        parent = "" if scope == "OPERATOR" else ACCOUNT
        caller = site.with_key(parent, scope.lower(), scope)
        calls: dict[str, tuple[Any, Any]] = {
            "READ": (caller.accounts.GetAccount, get_account),
            "INGEST": (caller.ingest.DeleteUsers, ingest),
            "MANAGE": (caller.accounts.CreateWorkspace, create),
            "ADMIN": (caller.accounts.UpdateAccount, update),
            "OPERATOR": (caller.admin.GetServerInfo, info),
        }
        for needed, (call, request) in calls.items():
            if needed in expected:
                call(request)
                continue
            refusal = refusal_of(call, request)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
            assert refusal.metadata == {"scope": f"SCOPE_{needed}"}
            assert f"SCOPE_{needed}" in refusal.message


@pytest.mark.parametrize(
    ("parent", "scopes", "field"),
    [
        (ACCOUNT, [], "api_key.scopes"),
        (ACCOUNT, ["READ", "READ"], "api_key.scopes[1]"),
        (ACCOUNT, ["READ", "OPERATOR"], "api_key.scopes[1]"),
        ("", ["ADMIN"], "api_key.scopes"),
        ("", ["OPERATOR", "READ"], "api_key.scopes"),
        ("", [], "api_key.scopes"),
    ],
)
def test_scopes_that_do_not_fit_are_refused(site: Keyed, parent: str, scopes: list[str], field: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        site.operator.create_key(parent, "k", *scopes)
    assert list(read_refusal(refused.value).violations) == [field]


# --- the first and the last operator key ---


def test_the_first_key_is_an_operator_s_and_one_without_an_end_stays(tmp_path: Path) -> None:
    tomorrow = Timestamp()
    tomorrow.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    with serving(tmp_path / "store", access_log="none") as service:
        service.create_inputs()
        anyone = Caller(service, "")
        for parent, scope, fields in ((ACCOUNT, "READ", {}), ("", "OPERATOR", {"expire_time": tomorrow})):
            with pytest.raises(grpc.RpcError) as refused:
                anyone.create_key(parent, "k", scope, **fields)
            assert read_refusal(refused.value).reason == "OPERATOR_KEY_REQUIRED"
        operator = Caller(service, anyone.create_key("", "first", "OPERATOR"))
        operator.create_key("", "short", "OPERATOR", expire_time=tomorrow)
        first = account_service_pb2.DeleteApiKeyRequest(name="apiKeys/first")
        assert refusal_of(operator.accounts.DeleteApiKey, first).reason == "OPERATOR_KEY_REQUIRED"
        ending = account_service_pb2.UpdateApiKeyRequest(
            api_key=account_pb2.ApiKey(name="apiKeys/first", expire_time=tomorrow)
        )
        assert refusal_of(operator.accounts.UpdateApiKey, ending).reason == "OPERATOR_KEY_REQUIRED"
        second = Caller(service, operator.create_key("", "second", "OPERATOR"))
        operator.accounts.DeleteApiKey(first)
        assert code_and_reason(operator.accounts.GetAccount, get_account) == UNAUTHENTICATED
        assert second.accounts.GetAccount(get_account).account.name == ACCOUNT
        for caller in (anyone, operator, second):
            caller.close()


# --- secrets ---


def test_a_secret_is_shown_once_and_stored_nowhere(tmp_path: Path) -> None:
    with keyed(tmp_path / "store", backup_dir=tmp_path / "backups") as site:
        site.operator.create_inputs()
        request = account_service_pb2.CreateApiKeyRequest(
            parent=ACCOUNT,
            api_key_id="k",
            api_key=account_pb2.ApiKey(scopes=[account_pb2.SCOPE_READ]),
            request_id="once",
        )
        made = site.operator.accounts.CreateApiKey(request)
        again = site.operator.accounts.CreateApiKey(request)
        assert (again.secret, again.api_key.name) == ("", made.api_key.name)
        assert len(made.secret) > 40
        rotated = site.operator.accounts.RotateApiKey(
            account_service_pb2.RotateApiKeyRequest(name=made.api_key.name)
        )
        shown = [
            str(
                site.operator.accounts.GetApiKey(account_service_pb2.GetApiKeyRequest(name=made.api_key.name))
            ),
            str(site.operator.accounts.ListApiKeys(account_service_pb2.ListApiKeysRequest(parent=ACCOUNT))),
        ]
        site.operator.admin.CreateBackup(admin_service_pb2.CreateBackupRequest(backup_id="b"))
        secrets = [made.secret, rotated.secret, site.operator.secret]
        assert [secret for secret in secrets for text in shown if secret in text] == []
    for root in ("store", "backups"):
        files = [path for path in (tmp_path / root).rglob("*") if path.is_file()]
        assert files
        for path in files:
            data = path.read_bytes()
            assert [secret for secret in secrets if secret.encode() in data] == [], path


def test_keys_are_known_after_a_restart_and_deleted_with_their_account(tmp_path: Path) -> None:
    with keyed(tmp_path / "store") as site:
        operator = site.operator.secret
        site.operator.accounts.CreateAccount(account_service_pb2.CreateAccountRequest(account_id="b"))
        secret = site.operator.create_key("accounts/b", "k", "ADMIN")
    with serving(tmp_path / "store", access_log="none") as service:
        request = account_service_pb2.GetAccountRequest(name="accounts/b")
        service.accounts.GetAccount(request, metadata=bearer(secret))
        assert code_and_reason(service.accounts.GetAccount, request) == UNAUTHENTICATED
        service.accounts.DeleteAccount(
            account_service_pb2.DeleteAccountRequest(name="accounts/b", confirmation="b"),
            metadata=bearer(operator),
        )
        service.accounts.CreateAccount(
            account_service_pb2.CreateAccountRequest(account_id="b"), metadata=bearer(operator)
        )
        with pytest.raises(grpc.RpcError) as refused:
            service.accounts.GetAccount(request, metadata=bearer(secret))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        listed = service.accounts.ListApiKeys(
            account_service_pb2.ListApiKeysRequest(parent="accounts/b"), metadata=bearer(operator)
        )
        assert not listed.api_keys


def rotate(site: Keyed, overlap_s: int | None) -> Caller:
    request = account_service_pb2.RotateApiKeyRequest(name=f"{ACCOUNT}/apiKeys/k")
    if overlap_s is not None:
        request.overlap.CopyFrom(Duration(seconds=overlap_s))
    return site.caller(site.operator.accounts.RotateApiKey(request).secret)


def test_the_secret_before_a_rotation_is_accepted_for_the_overlap(site: Keyed) -> None:
    first = site.with_key(ACCOUNT, "k", "READ")
    second = rotate(site, None)
    for caller in (first, second):
        assert caller.accounts.GetAccount(get_account).account.name == ACCOUNT
    third = rotate(site, 1)
    # Two secrets at most: the first has no overlap any more.
    assert code_and_reason(first.accounts.GetAccount, get_account) == UNAUTHENTICATED
    eventually(lambda: _refused(second))
    fourth = rotate(site, 0)
    assert code_and_reason(third.accounts.GetAccount, get_account) == UNAUTHENTICATED
    assert fourth.accounts.GetAccount(get_account).account.name == ACCOUNT
    found = site.operator.accounts.GetApiKey(
        account_service_pb2.GetApiKeyRequest(name=f"{ACCOUNT}/apiKeys/k")
    )
    assert not found.api_key.HasField("previous_secret_expire_time")


def _refused(caller: Caller) -> bool:
    try:
        caller.accounts.GetAccount(get_account)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


@pytest.mark.parametrize("seconds", [-1, 30 * 86_400 + 1])
def test_an_overlap_out_of_range_is_refused(site: Keyed, seconds: int) -> None:
    site.with_key(ACCOUNT, "k", "READ")
    with pytest.raises(grpc.RpcError) as refused:
        rotate(site, seconds)
    assert list(read_refusal(refused.value).violations) == ["overlap"]


def test_a_key_expires(site: Keyed) -> None:
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(seconds=2))
    caller = site.with_key(ACCOUNT, "k", "READ", expire_time=soon)
    assert caller.accounts.GetAccount(get_account).account.name == ACCOUNT
    eventually(lambda: _refused(caller))
    past = account_service_pb2.UpdateApiKeyRequest(
        api_key=account_pb2.ApiKey(name=f"{ACCOUNT}/apiKeys/k", expire_time=Timestamp(seconds=1))
    )
    assert list(refusal_of(site.operator.accounts.UpdateApiKey, past).violations) == ["api_key.expire_time"]


def test_an_etag_of_another_version_changes_nothing(site: Keyed) -> None:
    name = f"{ACCOUNT}/apiKeys/k"
    caller = site.with_key(ACCOUNT, "k", "READ")
    accounts = site.operator.accounts
    etag = accounts.GetApiKey(account_service_pb2.GetApiKeyRequest(name=name)).api_key.etag
    rotated = accounts.RotateApiKey(account_service_pb2.RotateApiKeyRequest(name=name, etag=etag))
    assert rotated.api_key.etag != etag
    for call, request in (
        (accounts.RotateApiKey, account_service_pb2.RotateApiKeyRequest(name=name, etag=etag)),
        (accounts.DeleteApiKey, account_service_pb2.DeleteApiKeyRequest(name=name, etag=etag)),
    ):
        assert code_and_reason(call, request) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert caller.accounts.GetAccount(get_account).account.name == ACCOUNT


# --- what runs ---


def calculated_audience(site: Keyed) -> str:
    """An audience with an active connection, so that it can be watched."""
    operator = site.operator
    everyone = journey_pb2.Milestone(criteria=criteria_pb2.Criteria(all_of=criteria_pb2.CriteriaList()))
    operator.journeys.CreateJourney(journey_service_pb2.CreateJourneyRequest(parent=ACCOUNT, journey_id="j"))
    milestone = operator.journeys.CreateMilestone(
        journey_service_pb2.CreateMilestoneRequest(
            parent=f"{ACCOUNT}/journeys/j", milestone_id="m", milestone=everyone
        )
    ).milestone
    operator.connections.CreateOutput(
        connection_service_pb2.CreateOutputRequest(
            parent=ACCOUNT, output_id="o", output=connection_pb2.Output(watch=connection_pb2.WatchOutput())
        )
    )
    operator.connections.CreateConnection(
        connection_service_pb2.CreateConnectionRequest(
            parent=ACCOUNT,
            connection_id="c",
            connection=connection_pb2.Connection(audience=milestone.audience, output=f"{ACCOUNT}/outputs/o"),
        )
    )
    operator.connections.ActivateConnection(
        connection_service_pb2.ActivateConnectionRequest(name=f"{ACCOUNT}/connections/c")
    )
    return milestone.audience


def delete_key(site: Keyed) -> None:
    site.operator.accounts.DeleteApiKey(account_service_pb2.DeleteApiKeyRequest(name=f"{ACCOUNT}/apiKeys/k"))


def only_read(site: Keyed) -> None:
    scope = account_pb2.SCOPE_INGEST
    key = account_pb2.ApiKey(name=f"{ACCOUNT}/apiKeys/k", scopes=[scope])
    site.operator.accounts.UpdateApiKey(account_service_pb2.UpdateApiKeyRequest(api_key=key))


@pytest.mark.parametrize(("end", "reason"), [(delete_key, "UNAUTHENTICATED"), (only_read, "SCOPE_MISSING")])
def test_a_watcher_ends_when_its_key_does(site: Keyed, end: Callable[[Keyed], None], reason: str) -> None:
    audience = calculated_audience(site)
    watcher = site.with_key(ACCOUNT, "k", "READ")
    stream = watcher.audiences.WatchMembership(
        audience_service_pb2.WatchMembershipRequest(
            audience=audience, snapshot=True, progress_interval=Duration(seconds=3600)
        )
    )
    next(stream)
    end(site)
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as ended:
        for _ in stream:
            pass
    assert read_refusal(ended.value).reason == reason
    assert time.monotonic() - began < REVOKED_WITHIN_S


def test_a_silent_stream_of_events_ends_when_its_key_is_deleted(site: Keyed) -> None:
    sender = site.with_key(ACCOUNT, "k", "INGEST")
    batches: queue.SimpleQueue[ingest_service_pb2.StreamEventsRequest | None] = queue.SimpleQueue()
    stream = sender.ingest.StreamEvents(iter(batches.get, None))
    event = data_pb2.Event(user_id="ann", name="open", input=INPUT)
    event.time.GetCurrentTime()
    batch = ingest_service_pb2.IngestEventsRequest(parent=ACCOUNT, events=[event])
    batches.put(ingest_service_pb2.StreamEventsRequest(batch=batch))
    assert next(stream).result.accepted == 1
    delete_key(site)
    with pytest.raises(grpc.RpcError) as ended:
        next(stream)
    assert read_refusal(ended.value).reason == "UNAUTHENTICATED"
    batches.put(None)


def test_streams_of_anyone_end_when_keys_become_required(tmp_path: Path) -> None:
    with serving(tmp_path / "store", access_log="none") as service:
        service.create_inputs()
        batches: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stream = service.ingest.StreamEvents(iter(batches.get, None))
        eventually(lambda: service.application.in_flight == 1)
        anyone = Caller(service, "")
        anyone.create_key("", "op", "OPERATOR")
        with pytest.raises(grpc.RpcError) as ended:
            next(stream)
        assert read_refusal(ended.value).reason == "UNAUTHENTICATED"
        batches.put(None)
        anyone.close()
