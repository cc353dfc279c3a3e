"""Outputs: their records and the checks of each kind."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import msgspec

from engine.clock import Clock
from engine.errors import AlreadyExists, FailedPrecondition, Violation
from engine.limits import Limits
from engine.resources.checks import check_etag, display_name_faults, masked_values, refuse_if_any
from engine.resources.names import Resource, check_name, chosen_or_made_id
from engine.resources.paging import Page, page_by_name
from engine.resources.records import (
    Account,
    Connection,
    File,
    Kafka,
    Nats,
    Output,
    Redis,
    Webhook,
    account_of,
)
from engine.resources.repository import Repository
from engine.resources.requests import Requests

OUTPUT_FIELDS = frozenset({"display_name", "target"})

SECRET_PREFIX = "whsec_"
SECRET_BYTES_MIN = 24
SECRET_BYTES_MAX = 64
"""Lengths of a signing secret after Standard Webhooks 1.0.0, "Signature scheme"."""


class Outputs:
    """Creates, reads and changes outputs."""

    def __init__(self, repository: Repository, limits: Limits, clock: Clock) -> None:
        self._repository = repository
        self._requests = Requests(repository, limits, clock.stamp)
        self._limits = limits
        self._clock = clock

    def create_output(self, parent: str, output_id: str, output: Output, request_id: str = "") -> Output:
        """Creates an output. Raises NotFound, AlreadyExists, InvalidInput."""
        check_name(parent, "parent", Resource.ACCOUNT)
        with self._repository.writing() as changes:
            answered = self._requests.first_answer("create_output", parent, request_id, Output)
            if answered is not None:
                return answered[0]
            self._repository.get(Account, parent)
            name = f"{parent}/outputs/{chosen_or_made_id(output_id, 'output_id')}"
            if self._repository.find(Output, name) is not None:
                raise AlreadyExists(name)
            now = self._clock()
            created = msgspec.structs.replace(output, name=name, create_time=now, update_time=now)
            refuse_if_any(self._faults(created))
            changes.put(created)
            self._requests.remember(changes, "create_output", parent, request_id, created)
            return created

    def get_output(self, name: str) -> Output:
        """The output. Raises NotFound."""
        check_name(name, "name", Resource.OUTPUT)
        return self._repository.get(Output, name)

    def list_outputs(self, parent: str, *, page_size: int = 0, page_token: str = "") -> Page[Output]:
        """The account's outputs, in order of name. Raises NotFound."""
        check_name(parent, "parent", Resource.ACCOUNT)
        self._repository.get(Account, parent)
        outputs = self._repository.scan(Output, f"{parent}/outputs/")
        question = ("list_outputs", parent)
        return page_by_name(outputs, question, page_size=page_size, page_token=page_token)

    def update_output(self, record: Output, fields: Collection[str], etag: str = "") -> Output:
        """Changes the named fields, `display_name` and `target`. A webhook without a secret keeps the one it
        has. Raises NotFound, EtagMismatch, InvalidInput.
        """
        check_name(record.name, "output.name", Resource.OUTPUT)
        values = masked_values(record, fields, OUTPUT_FIELDS)
        with self._repository.writing() as changes:
            known = self._repository.get(Output, record.name)
            check_etag(known, etag)
            target = values.get("target")
            if isinstance(target, Webhook) and isinstance(known.target, Webhook) and not target.secret:
                values["target"] = msgspec.structs.replace(target, secret=known.target.secret)
            updated = msgspec.structs.replace(known, **values, update_time=self._clock())
            refuse_if_any(self._faults(updated))
            changes.put(updated)
            return updated

    def delete_output(self, name: str, etag: str = "") -> None:
        """Deletes an output without connections. Raises NotFound, EtagMismatch, FailedPrecondition."""
        check_name(name, "name", Resource.OUTPUT)
        with self._repository.writing() as changes:
            known = self._repository.get(Output, name)
            check_etag(known, etag)
            connections = self._repository.scan(Connection, f"{account_of(name)}/connections/")
            using = ",".join(connection.name for connection in connections if connection.output == name)
            if using:
                raise FailedPrecondition(
                    f"{name} has connections: {using}",
                    reason="OUTPUT_IN_USE",
                    metadata={"connections": using},
                )
            changes.delete(known)

    def _faults(self, output: Output) -> Iterable[Violation]:
        yield from display_name_faults(output.display_name, "output.display_name", self._limits)
        target = output.target
        match target:
            case Webhook():
                yield from _webhook_faults(target)
            case Nats():
                yield from _missing("output.nats", servers=target.servers, subject=target.subject)
            case Redis():
                yield from _redis_faults(target)
            case Kafka():
                servers = target.bootstrap_servers
                yield from _missing("output.kafka", bootstrap_servers=servers, topic=target.topic)
            case File():
                yield from _file_faults(target)


def _missing(path: str, **fields: str) -> Iterable[Violation]:
    for field, value in fields.items():
        if not value:
            yield Violation(f"{path}.{field}", "is required")


def _webhook_faults(webhook: Webhook) -> Iterable[Violation]:
    if not _is_url(webhook.url, "http", "https"):
        yield Violation("output.webhook.url", "must be an http or https URL with a host")
    try:
        secret = base64.b64decode(webhook.secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not (webhook.secret.startswith(SECRET_PREFIX) and SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX):
        yield Violation(
            "output.webhook.secret",
            f"must be {SECRET_PREFIX} and the base64 of {SECRET_BYTES_MIN}-{SECRET_BYTES_MAX} bytes",
        )


def _redis_faults(redis: Redis) -> Iterable[Violation]:
    if not _is_url(redis.url, "redis", "rediss"):
        yield Violation("output.redis.url", "must be a redis or rediss URL with a host")
    yield from _missing("output.redis", stream=redis.stream)
    if redis.max_length < 0:
        yield Violation("output.redis.max_length", "must not be negative")


def _file_faults(file: File) -> Iterable[Violation]:
    path = PurePosixPath(file.path)
    if not file.path or path.is_absolute() or ".." in path.parts or "\0" in file.path:
        yield Violation("output.file.path", "must be a relative path without '..'")


def _is_url(url: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname)
    except ValueError:
        return False
