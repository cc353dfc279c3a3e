"""A backend: a store in all the roles that the engine needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, cast

from engine.backends.base.catalog import CatalogReader
from engine.backends.base.documents import DocumentKeeper
from engine.backends.base.execute import PlanExecutor
from engine.backends.base.membership import MembershipStore
from engine.backends.base.store import Role, Store
from engine.backends.base.upkeep import Upkeep
from engine.backends.base.users import UserReader
from engine.backends.base.write import DataWriter
from engine.errors import Unsupported

PROTOCOLS: Mapping[Role, type] = {
    Role.PLANS: PlanExecutor,
    Role.WRITING: DataWriter,
    Role.USERS: UserReader,
    Role.CATALOG: CatalogReader,
    Role.MEMBERSHIP: MembershipStore,
    Role.DOCUMENTS: DocumentKeeper,
    Role.UPKEEP: Upkeep,
}
"""The protocol of each role."""

NEEDED_ROLES = frozenset(Role) - {Role.UPKEEP}
"""Roles the engine cannot run without."""


class Backend(
    Store,
    PlanExecutor,
    DataWriter,
    UserReader,
    CatalogReader,
    MembershipStore,
    DocumentKeeper,
    Protocol,
):
    """All roles that the engine needs."""


def backend_of(store: Store) -> Backend:
    """The same store as a `Backend`. Raises Unsupported, naming the roles it lacks."""
    _require(store, NEEDED_ROLES)
    return cast(Backend, store)


def upkeep_of(store: Store) -> Upkeep:
    """The same store in an optional role. Raises Unsupported when it does not announce it."""
    _require(store, [Role.UPKEEP])
    return cast(Upkeep, store)


def _require(store: Store, roles: Iterable[Role]) -> None:
    able = store.capabilities()
    missing = sorted(role.value for role in set(roles) - able.roles)
    if missing:
        raise Unsupported(f"the backend {able.name!r} does not have the role {', '.join(missing)}")
