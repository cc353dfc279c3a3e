"""Statuses of gRPC as errors of Connect, with the same details.

A detail carries its JSON form as well, in `debug`, so that a caller without generated code reads the reason.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from google.protobuf import any_pb2, json_format
from google.rpc import code_pb2, status_pb2
from protobuf import wkt

from engine.errors import (
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    MilepostError,
    StoreUnavailable,
    Unsupported,
)
from service.errors import status_of
from service.limits import RECEIVE_BYTES_MAX

MANY_MESSAGES = "unary request has multiple messages"
NO_MESSAGE = "unary request has zero messages"
"""What connectrpc calls UNIMPLEMENTED, and is the caller's fault."""


class Detail(ErrorDetail):
    """A detail of a status."""

    def __init__(self, detail: any_pb2.Any) -> None:
        super().__init__(wkt.Any(type_url=detail.type_url, value=detail.value))
        tree = json_format.MessageToDict(detail)
        tree.pop("@type", None)
        self.tree: dict[str, Any] = dict(tree)

    def value(self, *_kind: Any) -> Any:
        """The tree that is shown as `debug`."""
        return wkt.Struct.from_json(json.dumps(self.tree))


def error_of_status(status: status_pb2.Status) -> ConnectError:
    """The error of a status."""
    details = [Detail(each) for each in status.details]
    return ConnectError(code_named(code_pb2.Code.Name(status.code)), status.message, details)


def error_of(error: BaseException) -> ConnectError:
    """The error of a refusal, or of a defect, which is logged."""
    return error_of_status(status_of(error))


def code_named(name: str) -> Code:
    """The code of Connect by its name in gRPC."""
    return Code.CANCELED if name == "CANCELLED" else Code(name.lower())


def explained(error: Exception) -> ConnectError:
    """The error with a reason. Those that the HTTP side finds itself have none yet: a message that is too
    large, an unknown compression, a deadline that passes while the request is read.
    """
    if not isinstance(error, ConnectError):
        return error_of(error)
    if error.details or error.code is Code.CANCELED:
        return error
    return error_of(_refusal(error.code, error.message))


def written(error: ConnectError) -> bytes:
    """The error as Connect writes one of a call with one answer."""
    details = [
        {
            "type": detail.type_name,
            "value": base64.b64encode(detail.message_bytes).decode().rstrip("="),
            "debug": detail.tree,
        }
        for detail in error.details
        if isinstance(detail, Detail)
    ]
    tree = {"code": error.code.value, "message": error.message, "details": details}
    return json.dumps(tree, ensure_ascii=False).encode()


def _refusal(code: Code, message: str) -> MilepostError:
    match code:
        case Code.DEADLINE_EXCEEDED:
            return DeadlineExceeded("the deadline passed before the call was answered")
        case Code.RESOURCE_EXHAUSTED:
            metadata = {"limit": str(RECEIVE_BYTES_MAX), "unit": "bytes"}
            text = f"the request is larger than {RECEIVE_BYTES_MAX:,} bytes"
            return LimitExceeded(text, metadata=metadata)
        case Code.UNIMPLEMENTED if message == MANY_MESSAGES:
            return InvalidInput.one("request", "has more than one message; this method takes one")
        case Code.UNIMPLEMENTED if message == NO_MESSAGE:
            return InvalidInput.one("request", "is missing: the caller sent no message")
        case Code.UNIMPLEMENTED:
            return Unsupported(message)
        case Code.UNAVAILABLE:
            return StoreUnavailable(message)
        case _:
            return InvalidInput.one("request", message)
