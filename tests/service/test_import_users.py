"""ImportUsers through a real server: effects of rows, rejected rows, and nulls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pyarrow as pa
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from milepost.v1 import ingest_service_pb2 as pb
from milepost.v1.catalog_service_pb2 import VALUE_KIND_NUMBER, GetUserRequest, User
from milepost.v1.data_pb2 import CONSENT_STATE_DENIED, CONSENT_STATE_GIVEN, ConsentUpdate, UserUpdate
from milepost.v1.value_pb2 import StringList, Value
from tests.arrow_requests import arrow_bytes, refused
from tests.harness import ACCOUNT, CALL_TIMEOUT_S, INPUT, Serving, read_refusal, serving

T0 = 1_700_000_000_000_000
GDPR = pb.ConsentColumn(column="ads", regulation="gdpr", purpose="ads")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("users") / "store", log_level="error") as running:
        running.create_inputs()
        yield running


def table(**columns: Any) -> Any:
    return pa.RecordBatch.from_pydict(columns)


def times(*micros: int) -> Any:
    return pa.array(micros, pa.timestamp("us", "UTC"))


def run_import(service: Serving, *batches: Any, **fields: Any) -> pb.ImportUsersResponse:
    header = pb.ImportUsersHeader(**{"parent": ACCOUNT, "input": INPUT, **fields})
    stream = arrow_bytes(*batches)
    requests = [pb.ImportUsersRequest(header=header)]
    requests += [pb.ImportUsersRequest(arrow=stream[at : at + 999]) for at in range(0, len(stream), 999)]
    return service.ingest.ImportUsers(iter(requests), timeout=CALL_TIMEOUT_S)


def user(service: Serving, user_id: str) -> User:
    return service.catalog.GetUser(GetUserRequest(parent=ACCOUNT, user_id=user_id)).user


def without_id(found: User) -> User:
    found.user_id = ""
    return found


def at(micros: int) -> Timestamp:
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1_000)


def consent(regulation: str, purpose: str, given: bool) -> ConsentUpdate:
    state = CONSENT_STATE_GIVEN if given else CONSENT_STATE_DENIED
    return ConsentUpdate(regulation=regulation, purpose=purpose, state=state)


ROW_UPDATES = [
    UserUpdate(
        user_id="row-ann",
        time=at(T0),
        attributes={
            "plan": Value(string_value="gold"),
            "age": Value(number_value=41),
            "ltv": Value(number_value=0.1),
            "vip": Value(bool_value=True),
            "since": Value(time_value=at(T0 - 5)),
            "tags": Value(list_value=StringList(values=["a", "b"])),
        },
        identities={"email": "ann@example.com", "customer_id": "17"},
        consents=[consent("gdpr", "ads", True), consent("ccpa", "sale", True)],
    ),
    UserUpdate(
        user_id="row-bob",
        time=at(T0 + 1),
        attributes={
            "age": Value(number_value=7),
            "ltv": Value(number_value=2.5),
            "since": Value(time_value=at(T0 - 6)),
            "tags": Value(list_value=StringList()),
        },
        consents=[consent("gdpr", "ads", False)],
    ),
    UserUpdate(
        user_id="row-cid",
        time=at(T0 + 2),
        attributes={
            "plan": Value(string_value=""),
            "vip": Value(bool_value=False),
            "since": Value(time_value=at(T0 - 7)),
        },
        identities={"customer_id": "18"},
        consents=[consent("ccpa", "sale", False)],
    ),
]
"""The rows of the test below, as updates of other users."""


def test_row_equals_the_same_update(service: Serving) -> None:
    sent = table(
        user_id=["file-ann", "file-bob", "file-cid"],
        time=times(T0, T0 + 1, T0 + 2),
        plan=["gold", None, ""],
        age=pa.array([41, 7, None]),
        ltv=[0.1, 2.5, None],
        vip=[True, None, False],
        since=times(T0 - 5, T0 - 6, T0 - 7),
        tags=pa.array([["a", "b"], [], None]),
        mail=["ann@example.com", "", None],
        crm=pa.array([17, None, 18]),
        ads=["Given", "denied", None],
        sale=[True, None, False],
        junk=["x", "y", "z"],
    )
    answer = run_import(
        service,
        sent,
        identity_columns={"mail": "email", "crm": "customer_id"},
        consent_columns=[GDPR, pb.ConsentColumn(column="sale", regulation="ccpa", purpose="sale")],
        ignored_columns=["junk"],
    )
    assert (answer.accepted, answer.rejected) == (3, 0)

    upserted = service.ingest.UpsertUsers(
        pb.UpsertUsersRequest(parent=ACCOUNT, input=INPUT, users=ROW_UPDATES)
    )
    assert upserted.accepted == 3
    for name in ("ann", "bob", "cid"):
        assert without_id(user(service, f"file-{name}")) == without_id(user(service, f"row-{name}"))


@pytest.mark.parametrize("unset", [False, True])
def test_null_unsets_only_on_request(service: Serving, unset: bool) -> None:
    name = f"null-{unset}"
    before = table(user_id=[name], time=times(T0), plan=["gold"], n=[1.0], mail=["m"], ads=["given"])
    meant = {"identity_columns": {"mail": "email"}, "consent_columns": [GDPR]}
    run_import(service, before, **meant)
    strings = pa.array([None], pa.string())
    after = table(user_id=[name], time=times(T0 + 1), plan=strings, n=[2.0], mail=strings, ads=strings)
    assert run_import(service, after, unset_nulls=unset, **meant).accepted == 1
    found = user(service, name)
    assert ("plan" in found.attributes[0].attributes) is not unset
    assert ("email" in found.identities) is not unset
    assert found.attributes[0].attributes["n"].number_value == 2.0
    assert [consent.state for consent in found.consents] == [CONSENT_STATE_GIVEN]


def test_rejected_rows_are_reported_with_their_columns(service: Serving) -> None:
    first = table(
        user_id=["r1", None, "r3"], time=times(T0, T0, T0), age=["1", "2", "x"], ads=["given", None, "no"]
    )
    second = table(
        user_id=["r4", "u" * 257, "r6"],
        time=times(T0, T0, T0 * 10),
        age=["4", "5", "6"],
        ads=["maybe", None, None],
    )
    answer = run_import(
        service,
        first,
        second,
        attribute_kinds={"age": VALUE_KIND_NUMBER},
        consent_columns=[
            pb.ConsentColumn(
                column="ads", regulation="gdpr", purpose="ads", given_values=["GIVEN"], denied_values=["no"]
            )
        ],
    )
    assert (answer.accepted, answer.rejected) == (1, 5)
    assert refused(answer) == {
        ("INVALID_VALUE", "attributes['age']", "is not a number"): [2],
        ("INVALID_VALUE", "consents[gdpr/ads]", "must be one of 'given', 'no'"): [3],
        ("REQUIRED", "user_id", "is required"): [1],
        ("NAME_TOO_LONG", "user_id", "is longer than 256 bytes"): [4],
        ("UPDATE_IN_FUTURE", "time", "is more than 24 h ahead of the server's clock"): [5],
    }
    assert answer.rejections[0].field == "rows[1].user_id"


def test_default_time_applies_to_all_rows(service: Serving) -> None:
    run_import(service, table(user_id=["t1"], x=[1]), default_time=Timestamp(seconds=1_600_000_000))
    assert user(service, "t1").inputs[0].last_seen.seconds == 1_600_000_000
    sent = table(user_id=["t2", "t3"], when=pa.array([None, 5]), x=[1, 2])
    run_import(
        service,
        sent,
        time_column="when",
        time_unit=pb.TIME_UNIT_SECONDS,
        default_time=Timestamp(seconds=7),
    )
    assert [user(service, name).inputs[0].first_seen.seconds for name in ("t2", "t3")] == [7, 5]


def test_missing_time_is_the_servers_clock(service: Serving) -> None:
    run_import(service, table(user_id=["now"], x=[1]))
    now = Timestamp()
    now.GetCurrentTime()
    assert 0 <= now.seconds - user(service, "now").inputs[0].last_seen.seconds <= CALL_TIMEOUT_S


def test_an_import_repeated_is_applied_once(service: Serving) -> None:
    first = run_import(service, table(user_id=["again"], time=times(T0), x=[1]), request_id="users-1")
    again = run_import(service, table(user_id=["other"], time=times(T0), x=[2]), request_id="users-1")
    assert (again.accepted, again.revision) == (1, first.revision)
    with pytest.raises(grpc.RpcError):
        user(service, "other")


@pytest.mark.parametrize(
    ("fields", "field", "description"),
    [
        ({"user_id_column": "id"}, "header.user_id_column", "the stream has no column 'id'"),
        ({"identity_columns": {"mail": "email"}}, "header.identity_columns['mail']", "no column 'mail'"),
        ({"ignored_columns": ["nothing"]}, "header.ignored_columns[0]", "no column 'nothing'"),
        (
            {"ignored_columns": ["x"], "identity_columns": {"x": "email"}},
            "header",
            "the column 'x' cannot be both an identity and left out",
        ),
        (
            {"consent_columns": [pb.ConsentColumn(column="x", regulation="gdpr")]},
            "header.consent_columns[0].purpose",
            "is required",
        ),
        (
            {
                "consent_columns": [
                    pb.ConsentColumn(
                        column="x", regulation="r", purpose="p", given_values=["Y"], denied_values=["y"]
                    )
                ]
            },
            "header.consent_columns[0]",
            "'y' cannot mean both given and denied",
        ),
        (
            {"consent_columns": [pb.ConsentColumn(column="f", regulation="r", purpose="p")]},
            "arrow['f']",
            "has the type double",
        ),
        ({"input": ""}, "header.input", "is required"),
    ],
)
def test_invalid_header_is_refused(
    service: Serving, fields: dict[str, Any], field: str, description: str
) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        run_import(service, table(user_id=["u"], x=["1"], f=[1.5]), **fields)
    refusal = read_refusal(failure.value)
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
    assert description in refusal.violations[field]
