"""A service with an operator key, and callers with keys of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from milepost.v1 import account_pb2, account_service_pb2
from tests.harness import Serving, Stubs, bearer, serving

SCOPES = account_pb2.Scope


class _Bearer(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Sends a secret with each call."""

    def __init__(self, secret: str) -> None:
        self._metadata = bearer(secret)

    def _send(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        metadata = (*(client_call_details.metadata or ()), *self._metadata)
        return continuation(client_call_details._replace(metadata=metadata), request)

    intercept_unary_unary = _send
    intercept_unary_stream = _send

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return self._send(continuation, client_call_details, request_iterator)

    intercept_stream_stream = intercept_stream_unary


class Caller(Stubs):
    """The stubs of a caller with a secret."""

    def __init__(self, service: Serving, secret: str) -> None:
        super().__init__(service.address)
        self.secret = secret
        self.plain_channel = self.channel
        self.channel = grpc.intercept_channel(self.channel, _Bearer(secret))

    def create_key(self, parent: str, api_key_id: str, *scopes: str, **fields: Any) -> str:
        """Creates a key and returns its secret."""
        key = account_pb2.ApiKey(scopes=[SCOPES.Value(f"SCOPE_{scope}") for scope in scopes], **fields)
        request = account_service_pb2.CreateApiKeyRequest(parent=parent, api_key_id=api_key_id, api_key=key)
        return self.accounts.CreateApiKey(request).secret

    def close(self) -> None:
        self.plain_channel.close()


class Keyed:
    """A service that needs keys, and its operator."""

    def __init__(self, service: Serving) -> None:
        self.service = service
        self._callers: list[Caller] = []
        anyone = self.caller("")
        self.operator = self.caller(anyone.create_key("", "op", "OPERATOR"))

    def caller(self, secret: str) -> Caller:
        """A caller with this secret."""
        made = Caller(self.service, secret)
        self._callers.append(made)
        return made

    def with_key(self, parent: str, api_key_id: str, *scopes: str, **fields: Any) -> Caller:
        """A caller with a new key."""
        return self.caller(self.operator.create_key(parent, api_key_id, *scopes, **fields))

    def close(self) -> None:
        for caller in self._callers:
            caller.close()


@contextmanager
def keyed(directory: Path, **settings: Any) -> Iterator[Keyed]:
    """A service over the store in `directory` whose calls need keys."""
    with serving(directory, **{"access_log": "none", **settings}) as service:
        made = Keyed(service)
        try:
            yield made
        finally:
            made.close()
