"""Every reason has its documented code, and no details leak."""

from __future__ import annotations

import ast
import base64
import re
import urllib.parse
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from engine import errors
from engine.errors import InvalidInput, LimitExceeded, MilepostError, NotFound, StoreUnavailable, Violation
from milepost.v1 import errors_pb2
from service.errors import CODES, TRAILER_BYTES_MAX, code_of, reason_of, status_of

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "ERROR_REASON_"


def documented_codes() -> dict[str, str]:
    """Reason → canonical code, from the comments of errors.proto."""
    text = (ROOT / "protos/milepost/v1/errors.proto").read_text(encoding="utf-8")
    found = re.findall(rf"// ([A-Z_]+)\..*\n(?:  //.*\n)*  {PREFIX}(\w+) = \d+;", text)
    return {reason: code for code, reason in found}


def raised_in_source(package: str) -> set[tuple[str, str]]:
    """Class and `reason=` of every engine error that the package raises with an explicit reason."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                made = ast.unparse(node.func).removesuffix(".one")
                reasons = [_reason(keyword) for keyword in node.keywords]
                found |= {(made, reason) for reason in reasons if reason and made in vars(errors)}
    return found


def _reason(keyword: ast.keyword) -> str:
    if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant):
        return str(keyword.value.value)
    return ""


def details(status: status_pb2.Status) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.BadRequest]:
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        assert detail.Unpack(info) or detail.Unpack(bad_request)
    return info, bad_request


def test_every_reason_of_the_contract_has_its_documented_code() -> None:
    in_contract = {name.removeprefix(PREFIX) for name, _ in errors_pb2.ErrorReason.items()} - {"UNSPECIFIED"}
    assert {reason: code.name for reason, code in CODES.items()} == documented_codes()
    assert set(CODES) == in_contract


@pytest.mark.parametrize("package", ["engine", "service"])
def test_every_reason_in_the_source_has_a_status(package: str) -> None:
    raised = raised_in_source(package)
    assert raised or package == "service"
    made = [vars(errors)[name]("m" if name != "InvalidInput" else [], reason=r) for name, r in raised]
    unknown = {error.reason for error in made if reason_of(error) is None}
    # For operators: those who name a directory on the server, or start it with settings unlike its store's.
    assert unknown <= {"DIRECTORY_NOT_EMPTY", "GROUPS_DIFFER"}


def test_store_reasons_map_to_the_reason_of_their_class() -> None:
    error = StoreUnavailable("the store failed", reason="STORE_FAILED")
    assert (reason_of(error), code_of(error)) == ("STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)


def test_every_engine_error_has_a_default_code() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, MilepostError) and value is not MilepostError
    ]
    unmapped = {c.__name__ for c in classes if c.default_reason not in CODES}
    # Raised with a reason that names what stands in the way, never by its default. A defect is INTERNAL.
    assert unmapped == {"Aborted", "FailedPrecondition", "Defect"}


def test_status_carries_reason_domain_and_metadata() -> None:
    error = LimitExceeded("7 of 7 used", reason="NO_AUDIENCE_CREDIT", metadata={"limit": "7"})
    status = status_of(error)
    info, bad_request = details(status)
    assert code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (status.code, status.message) == (8, "7 of 7 used")
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "NO_AUDIENCE_CREDIT",
        "milepost",
        {"limit": "7"},
    )
    assert not bad_request.field_violations


def test_field_faults_become_violations() -> None:
    error = InvalidInput([Violation("parent", "is required"), Violation("journey_id", "is too long")])
    info, bad_request = details(status_of(error))
    assert info.reason == "INVALID_ARGUMENT"
    assert [(v.field, v.description) for v in bad_request.field_violations] == [
        ("parent", "is required"),
        ("journey_id", "is too long"),
    ]


def trailer_bytes(status: status_pb2.Status) -> int:
    """Size of the status on the wire: its message percent-encoded, and all of it again in base64."""
    return len(urllib.parse.quote(status.message)) + len(base64.b64encode(status.SerializeToString()))


def test_more_violations_than_a_trailer_holds_are_counted() -> None:
    error = InvalidInput([Violation(f"events[{i}].user_id", "is required") for i in range(10_000)])
    status = status_of(error)
    info, bad_request = details(status)
    shown = len(bad_request.field_violations)
    assert shown > 50
    assert int(info.metadata["violations_left_out"]) == 10_000 - shown
    assert trailer_bytes(status) < TRAILER_BYTES_MAX


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput(
            [Violation("é" * 5_000, "ü" * 5_000)] * 50, metadata={"k": "x" * 9_000, "l": "é" * 9_000}
        ),
        NotFound("accounts/" + "é" * 100_000),
        LimitExceeded("full", metadata={f"k{i}": "é" * 400 for i in range(10)}),
    ],
)
def test_a_status_always_fits_a_trailer(error: MilepostError) -> None:
    assert trailer_bytes(status_of(error)) < TRAILER_BYTES_MAX


def test_bug_reports_only_a_correlation_id() -> None:
    status = status_of(KeyError("/data/secret/path"))
    info, _ = details(status)
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert info.reason == "INTERNAL"
    assert info.metadata["correlation_id"] in status.message
    assert "secret" not in str(status)


def test_not_found_names_the_resource() -> None:
    info, _ = details(status_of(NotFound("accounts/a")))
    assert (info.reason, dict(info.metadata)) == ("RESOURCE_NOT_FOUND", {"resource": "accounts/a"})
