"""Outputs: creating, reading and changing them. `targets` has their kinds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from engine.clock import Clock
from engine.errors import AlreadyExists, FailedPrecondition, InvalidInput, Violation
from engine.limits import Limits
from engine.resources import secret_keys
from engine.resources.api_keys import ROTATION_OVERLAP_DEFAULT, ROTATION_OVERLAP_MAX
from engine.resources.checks import check_etag, display_name_faults, masked_values, refuse_if_any
from engine.resources.names import Resource, check_name, chosen_or_made_id
from engine.resources.paging import Page
from engine.resources.records import Account, Connection, Output, account_of
from engine.resources.repository import Repository, prefix_of
from engine.resources.requests import Requests
from engine.resources.secret_keys import SecretKeys
from engine.resources.targets import File, Target
from engine.values import MICROS_PER_DAY, Micros

OUTPUT_FIELDS = frozenset({"display_name", "target"})


class OpenOutput(msgspec.Struct, frozen=True):
    """What an output's messages need of it: its target with secrets, and the secrets of before by field,
    which are valid until `previous_expire_time`.
    """

    target: Target
    previous: Mapping[str, str]
    previous_expire_time: Micros


class Outputs:
    """Creates, reads and changes outputs."""

    def __init__(self, repository: Repository, keys: SecretKeys, limits: Limits, clock: Clock) -> None:
        self._repository = repository
        self._keys = keys
        self._requests = Requests(repository, limits, clock.stamp)
        self._limits = limits
        self._clock = clock

    def create_output(self, parent: str, output_id: str, output: Output, request_id: str = "") -> Output:
        """Creates an output. Raises NotFound, AlreadyExists, InvalidInput."""
        check_name(parent, "parent", Resource.ACCOUNT)
        with self._repository.writing() as changes:
            answered = self._requests.first_answer("create_output", parent, request_id, Output)
            if answered is not None:
                return answered
            self._repository.get(Account, parent)
            name = f"{parent}/outputs/{chosen_or_made_id(output_id, 'output_id')}"
            if self._repository.find(Output, name) is not None:
                raise AlreadyExists(name)
            now = self._clock()
            created = msgspec.structs.replace(output, name=name, create_time=now, update_time=now)
            refuse_if_any((*self._name_faults(created), *_target_faults(created.target)))
            created = msgspec.structs.replace(
                created,
                target=output.target.concealed(),
                secrets=self._keys.encrypt(output.target.secret_values()),
            )
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
        return self._repository.pages.by_name(outputs, question, page_size=page_size, page_token=page_token)

    def update_output(
        self,
        record: Output,
        fields: Collection[str],
        etag: str = "",
        *,
        overlap: Micros | None = None,
    ) -> Output:
        """Changes the named fields, `display_name` and `target`. A target without its secret keeps the one
        it has. A new signing secret leaves the one before valid for `overlap` microseconds, by default a
        day. Raises NotFound, EtagMismatch, InvalidInput.
        """
        check_name(record.name, "output.name", Resource.OUTPUT)
        values = masked_values(record, fields, OUTPUT_FIELDS)
        overlap = ROTATION_OVERLAP_DEFAULT if overlap is None else overlap
        if not 0 <= overlap <= ROTATION_OVERLAP_MAX:
            days = ROTATION_OVERLAP_MAX // MICROS_PER_DAY
            raise InvalidInput.one("secret_overlap", f"must be 0 to {days} days")
        with self._repository.writing() as changes:
            known = self._repository.get(Output, record.name)
            check_etag(known, etag)
            if "target" in values:
                values |= self._moved(known, values["target"], overlap)
            updated = msgspec.structs.replace(known, **values, update_time=self._clock())
            refuse_if_any(self._name_faults(updated))
            changes.put(updated)
            return updated

    def _moved(self, known: Output, target: Target, overlap: Micros) -> dict[str, Any]:
        """The fields of an output that has a new target. Raises InvalidInput."""
        readable = self._keys.decrypt(known.secrets)
        # What cannot be read any more has to be given again: the faults say so.
        secrets = readable or {}
        target = target.with_secrets_of(known.target.revealed(secrets))
        refuse_if_any(_new_faults(target, known.target))
        values: dict[str, Any] = {"target": target.concealed()}
        given = target.secret_values()
        if readable is None or given != secrets:
            values["secrets"] = self._keys.encrypt(given)
        if type(target) is not type(known.target):
            return values | {"previous_secrets": b"", "previous_expire_time": 0}
        previous = {
            field: secrets[field]
            for field in target.overlapping & secrets.keys()
            if given.get(field) != secrets[field]
        }
        if previous:
            values["previous_secrets"] = self._keys.encrypt(previous) if overlap else b""
            values["previous_expire_time"] = self._clock() + overlap if overlap else 0
        return values

    def opened(self, output: Output) -> OpenOutput:
        """An output with its secrets, to be used and not shown. Raises FailedPrecondition when the key of the
        store does not fit them.
        """
        secrets = self._keys.decrypt(output.secrets)
        if secrets is None:
            raise FailedPrecondition(
                f"the key of this store does not fit the secrets of {output.name}: give them again with "
                "UpdateOutput, or start the service with the key file they were encrypted with",
                reason=secret_keys.REASON,
                metadata={"output": output.name},
            )
        previous = self._keys.decrypt(output.previous_secrets) or {}
        return OpenOutput(
            target=output.target.revealed(secrets),
            previous=previous,
            previous_expire_time=output.previous_expire_time,
        )

    def renew_secrets(self) -> tuple[str, ...]:
        """Encrypts with the first key what another one encrypted. Returns the names of the outputs whose
        secrets no key fits.
        """
        unreadable = []
        with self._repository.writing() as changes:
            for output in self._repository.scan(Output, ""):
                if self._keys.is_current(output.secrets) and self._keys.is_current(output.previous_secrets):
                    continue
                secrets = self._keys.decrypt(output.secrets)
                if secrets is None:
                    unreadable.append(output.name)
                    continue
                previous = self._keys.decrypt(output.previous_secrets) or {}
                changes.put(
                    msgspec.structs.replace(
                        output,
                        secrets=self._keys.encrypt(secrets),
                        previous_secrets=self._keys.encrypt(previous),
                    )
                )
        return tuple(unreadable)

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

    def _name_faults(self, output: Output) -> Iterable[Violation]:
        return display_name_faults(output.display_name, "output.display_name", self._limits)


def without_key(stored: Iterable[tuple[str, bytes]], keys: SecretKeys) -> tuple[str, ...]:
    """The names of the outputs, among stored documents, whose secrets no key fits."""
    prefix, decoder = prefix_of(Output), msgspec.msgpack.Decoder(Output)
    outputs = [decoder.decode(value) for key, value in stored if key.startswith(prefix)]
    return tuple(output.name for output in outputs if keys.decrypt(output.secrets) is None)


def _new_faults(target: Target, known: Target) -> Iterable[Violation]:
    """The faults of a target, but for those of the path of files that the output has already: it was made
    under earlier rules.
    """
    faults = _target_faults(target)
    if isinstance(target, File) and isinstance(known, File) and target.path == known.path:
        return (fault for fault in faults if not fault.field.endswith(".path"))
    return faults


def _target_faults(target: Target) -> Iterable[Violation]:
    yield from target.hidden_faults()
    yield from target.faults()
