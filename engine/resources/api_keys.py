"""API keys: secrets with scopes, of accounts and of operators.

A secret has 256 random bits, so its SHA-256 is as good as itself to recognise it and useless to recover it;
only that is stored. The first key is an operator's, and one operator key without an end always stays: from
the first key on every call needs one, and someone has to be able to create more.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection, Iterable

import msgspec

from engine.clock import Clock
from engine.errors import AlreadyExists, FailedPrecondition, InvalidInput, LimitExceeded, Violation
from engine.limits import API_KEYS_MAX, Limits
from engine.resources.checks import check_etag, display_name_faults, masked_values, refuse_if_any
from engine.resources.names import Resource, check_name, chosen_or_made_id
from engine.resources.paging import Page
from engine.resources.records import Account, ApiKey, Scope
from engine.resources.repository import Changes, Repository
from engine.resources.requests import Requests
from engine.values import MICROS_PER_DAY, Micros

OPERATOR_FIELDS = ("calls_per_second_max", "in_flight_max")
"""Fields of a key that belong to operators."""
API_KEY_FIELDS = frozenset({"display_name", "scopes", "expire_time", *OPERATOR_FIELDS})
SECRET_PREFIX = "mpk_"
"""How every secret begins, so that scanners find one that was published."""
SECRET_BYTES = 32
ROTATION_OVERLAP_DEFAULT = MICROS_PER_DAY
ROTATION_OVERLAP_MAX = 30 * MICROS_PER_DAY
CALLS_PER_SECOND_MAX = 1_000_000
IN_FLIGHT_MAX = 100_000

_OPERATOR_KEYS = "apiKeys/"


def digest_of(secret: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()


class ApiKeys:
    """Creates, reads, changes, rotates and deletes API keys. Safe to call from several threads."""

    def __init__(self, repository: Repository, limits: Limits, clock: Clock) -> None:
        self._repository = repository
        self._requests = Requests(repository, limits, clock.stamp)
        self._limits = limits
        self._clock = clock

    def subscribe(self, changed: Callable[[tuple[ApiKey, ...], tuple[Account, ...]], None]) -> None:
        """Calls `changed` with all keys and accounts now, and after each commit that changes one, before its
        caller gets an answer.
        """

        def read() -> None:
            changed(self._repository.scan(ApiKey, ""), self._repository.scan(Account, ""))

        self._repository.subscribe((ApiKey, Account), read)

    def create_key(
        self,
        parent: str,
        api_key_id: str,
        key: ApiKey,
        request_id: str = "",
        *,
        limit_changes: Callable[[str], None] = lambda field: None,
    ) -> tuple[ApiKey, str]:
        """Creates a key of an account or, without a parent, of an operator. Returns it with its secret; a
        repeat with the same request id has no secret. `limit_changes` is as in `update_key`.

        Raises NotFound, AlreadyExists, InvalidInput, FailedPrecondition, LimitExceeded.
        """
        if parent:
            check_name(parent, "parent", Resource.ACCOUNT)
        with self._repository.writing() as changes:
            answered = self._requests.first_answer("create_api_key", parent, request_id, ApiKey)
            if answered is not None:
                return answered, ""
            if parent:
                self._repository.get(Account, parent)
            prefix = f"{parent}/{_OPERATOR_KEYS}" if parent else _OPERATOR_KEYS
            name = prefix + chosen_or_made_id(api_key_id, "api_key_id")
            if self._repository.find(ApiKey, name) is not None:
                raise AlreadyExists(name)
            self._refuse_too_many(prefix)
            now = self._clock()
            secret = _made_secret()
            created = msgspec.structs.replace(
                key, name=name, create_time=now, update_time=now, digest=digest_of(secret)
            )
            refuse_if_any(self._faults(created))
            _report_changes(ApiKey(name=name), created, limit_changes)
            self._put(changes, created)
            shown = msgspec.structs.replace(created, digest=b"")
            self._requests.remember(changes, "create_api_key", parent, request_id, shown)
            return created, secret

    def get_key(self, name: str) -> ApiKey:
        """The key. Raises NotFound."""
        check_name(name, "name", Resource.API_KEY, Resource.OPERATOR_KEY)
        return self._repository.get(ApiKey, name)

    def list_keys(self, parent: str, *, page_size: int = 0, page_token: str = "") -> Page[ApiKey]:
        """The keys of an account, or without a parent those of operators, in order of name. Raises
        NotFound.
        """
        prefix = _OPERATOR_KEYS
        if parent:
            check_name(parent, "parent", Resource.ACCOUNT)
            self._repository.get(Account, parent)
            prefix = f"{parent}/{_OPERATOR_KEYS}"
        keys = self._repository.scan(ApiKey, prefix)
        return self._repository.pages.by_name(
            keys, ("list_api_keys", parent), page_size=page_size, page_token=page_token
        )

    def update_key(
        self,
        record: ApiKey,
        fields: Collection[str],
        etag: str = "",
        *,
        limit_changes: Callable[[str], None] = lambda field: None,
    ) -> ApiKey:
        """Changes the named fields. Calls `limit_changes` with each field of `OPERATOR_FIELDS` that gets
        another value, which may refuse that. Raises NotFound, EtagMismatch, InvalidInput,
        FailedPrecondition.
        """
        check_name(record.name, "api_key.name", Resource.API_KEY, Resource.OPERATOR_KEY)
        values = masked_values(record, fields, API_KEY_FIELDS)
        with self._repository.writing() as changes:
            known = self._repository.get(ApiKey, record.name)
            check_etag(known, etag)
            updated = msgspec.structs.replace(known, **values, update_time=self._clock())
            refuse_if_any(self._faults(updated, known.expire_time))
            _report_changes(known, updated, limit_changes)
            self._put(changes, updated)
            return updated

    def rotate_key(self, name: str, *, overlap: Micros | None = None, etag: str = "") -> tuple[ApiKey, str]:
        """Gives the key a new secret and returns it; the one before is accepted for `overlap` microseconds,
        by default a day. Raises NotFound, EtagMismatch, InvalidInput.
        """
        check_name(name, "name", Resource.API_KEY, Resource.OPERATOR_KEY)
        overlap = ROTATION_OVERLAP_DEFAULT if overlap is None else overlap
        if not 0 <= overlap <= ROTATION_OVERLAP_MAX:
            days = ROTATION_OVERLAP_MAX // MICROS_PER_DAY
            raise InvalidInput.one("overlap", f"must be 0 to {days} days")
        with self._repository.writing() as changes:
            known = self._repository.get(ApiKey, name)
            check_etag(known, etag)
            now = self._clock()
            secret = _made_secret()
            rotated = msgspec.structs.replace(
                known,
                digest=digest_of(secret),
                previous_digest=known.digest if overlap else b"",
                previous_expire_time=now + overlap if overlap else 0,
                rotations=known.rotations + 1,
                update_time=now,
            )
            changes.put(rotated)
            return rotated, secret

    def delete_key(self, name: str, etag: str = "") -> None:
        """Deletes the key; calls with it are refused from then on. Raises NotFound, EtagMismatch,
        FailedPrecondition for the last operator key without an end.
        """
        check_name(name, "name", Resource.API_KEY, Resource.OPERATOR_KEY)
        with self._repository.writing() as changes:
            known = self._repository.get(ApiKey, name)
            check_etag(known, etag)
            self._refuse_last(name)
            changes.delete(known)

    def has_operator_key(self) -> bool:
        """Whether there is a key of an operator: then every call needs a key."""
        return bool(self._repository.scan(ApiKey, _OPERATOR_KEYS))

    def _put(self, changes: Changes, key: ApiKey) -> None:
        if key.expire_time or not key.name.startswith(_OPERATOR_KEYS):
            self._refuse_last(key.name)
        changes.put(key)

    def _refuse_last(self, name: str) -> None:
        """Raises FailedPrecondition unless another operator key than `name` has no end."""
        lasting = [key.name for key in self._repository.scan(ApiKey, _OPERATOR_KEYS) if not key.expire_time]
        if not set(lasting) - {name}:
            raise FailedPrecondition(
                "an operator key that does not expire must stay: create one first, with `milepost init` or"
                " with CreateApiKey without a parent",
                reason="OPERATOR_KEY_REQUIRED",
            )

    def _refuse_too_many(self, prefix: str) -> None:
        if len(self._repository.scan(ApiKey, prefix)) >= API_KEYS_MAX:
            raise LimitExceeded(
                f"there are {API_KEYS_MAX} API keys already; delete one that is not used",
                metadata={"limit": str(API_KEYS_MAX)},
            )

    def _faults(self, key: ApiKey, expire_time_before: Micros = 0) -> Iterable[Violation]:
        yield from display_name_faults(key.display_name, "api_key.display_name", self._limits)
        yield from _scope_faults(key)
        if key.expire_time and key.expire_time != expire_time_before and key.expire_time <= self._clock():
            yield Violation("api_key.expire_time", "must be in the future")
        if not 0 <= key.calls_per_second_max <= CALLS_PER_SECOND_MAX:
            yield Violation("api_key.calls_per_second_max", f"must be 0 to {CALLS_PER_SECOND_MAX:,}")
        if not 0 <= key.in_flight_max <= IN_FLIGHT_MAX:
            yield Violation("api_key.in_flight_max", f"must be 0 to {IN_FLIGHT_MAX:,}")


def _scope_faults(key: ApiKey) -> Iterable[Violation]:
    if key.name.startswith(_OPERATOR_KEYS):
        if key.scopes != (Scope.OPERATOR,):
            yield Violation("api_key.scopes", "must be SCOPE_OPERATOR alone for a key without an account")
        return
    if not key.scopes:
        yield Violation("api_key.scopes", "must name at least one scope")
    for index, scope in enumerate(key.scopes):
        if scope is Scope.OPERATOR:
            yield Violation(f"api_key.scopes[{index}]", "SCOPE_OPERATOR is for keys without an account")
        elif scope in key.scopes[:index]:
            yield Violation(f"api_key.scopes[{index}]", f"names {scope.name} twice")


def _report_changes(known: ApiKey, changed: ApiKey, report: Callable[[str], None]) -> None:
    """Calls `report` with each field of `OPERATOR_FIELDS` that differs."""
    for field in OPERATOR_FIELDS:
        if getattr(changed, field) != getattr(known, field):
            report(field)


def _made_secret() -> str:
    return SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
