"""The valid secrets at one moment, as plain data that another process can be given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from engine.limits import ACCOUNT_SLOTS_PERCENT_MAX
from engine.resources.records import Account, ApiKey, Scope, account_of
from engine.values import Micros
from service.auth.running import RunningCalls

_OPERATOR_KEYS = "apiKeys/"


class KnownSecret(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted secret. `account` "" = an operator's; times 0 = no end; limits 0 = the server's."""

    digest: bytes
    key: str
    account: str
    scopes: tuple[Scope, ...]
    expire_time: Micros = 0
    calls_per_second_max: int = 0
    in_flight_max: int = 0


class AccountLimits(msgspec.Struct, frozen=True):
    """What all keys of an account may call together."""

    account: str
    calls_per_second_max: int
    in_flight_max: int
    slots_percent_max: int = ACCOUNT_SLOTS_PERCENT_MAX


class KeySnapshot(msgspec.Struct, frozen=True):
    """All accepted secrets, and the limits of their accounts. `required` = a call without one is refused."""

    secrets: tuple[KnownSecret, ...] = ()
    required: bool = False
    accounts: tuple[AccountLimits, ...] = ()
    columns: dict[str, int] = {}
    """Where the running calls of a key or account are counted (`service.auth.running`)."""

    def encoded(self) -> bytes:
        """The snapshot for another process."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decoded(cls, data: bytes) -> KeySnapshot:
        """The snapshot in `encoded` bytes."""
        return msgspec.msgpack.decode(data, type=cls)


def snapshot_of(
    keys: Iterable[ApiKey], accounts: Iterable[Account], running: RunningCalls | None = None
) -> KeySnapshot:
    """The snapshot of these keys and their accounts. Keys are required from the first operator key on."""
    keys = tuple(keys)
    secrets = tuple(secret for key in keys for secret in _secrets_of(key))
    with_keys = {secret.account for secret in secrets}
    names = sorted({secret.key for secret in secrets} | with_keys - {""})
    return KeySnapshot(
        columns={} if running is None else running.columns_of(names),
        secrets=secrets,
        required=any(key.name.startswith(_OPERATOR_KEYS) for key in keys),
        accounts=tuple(_limits_of(account) for account in accounts if account.name in with_keys),
    )


def _limits_of(account: Account) -> AccountLimits:
    quotas = account.quotas.effective()
    return AccountLimits(
        account.name, quotas.calls_per_second_max, quotas.in_flight_max, quotas.slots_percent_max
    )


def _secrets_of(key: ApiKey) -> Iterator[KnownSecret]:
    current = KnownSecret(
        digest=key.digest,
        key=key.name,
        account="" if key.name.startswith(_OPERATOR_KEYS) else account_of(key.name),
        scopes=key.scopes,
        expire_time=key.expire_time,
        calls_per_second_max=key.calls_per_second_max,
        in_flight_max=key.in_flight_max,
    )
    yield current
    if key.previous_digest:
        ends = [end for end in (key.expire_time, key.previous_expire_time) if end]
        yield msgspec.structs.replace(current, digest=key.previous_digest, expire_time=min(ends))
