"""The boundary between the rule engine and whatever stores the users, in roles.

A backend takes records in, makes them durable, and executes plans over them. Dense ids, bitmaps, columns and
keys stay inside it: users cross this boundary as the caller's own user ids. It composes the roles of this
package, one a file, and announces them in its capabilities; `Backend` are those that the engine needs.
Whoever uses a backend asks for the smallest role that will do.

`engine.backends.registry` opens backends by URL; the embedded one is `engine.backends.local`. Every backend
must pass `tests/conformance` for the roles that it announces.

Accounts, inputs, workspaces and audiences are named here by their resource names (`accounts/a`,
`accounts/a/workspaces/w/inputs/i`, …). All methods are safe to call from several threads.
"""

from engine.backends.base.backend import NEEDED_ROLES, PROTOCOLS, Backend, backend_of, upkeep_of
from engine.backends.base.catalog import (
    AttributeFacts,
    AttributePlace,
    CatalogReader,
    EventNameFacts,
    EventPlace,
    SeenNames,
    ValueCount,
)
from engine.backends.base.documents import DocumentKeeper, Documents
from engine.backends.base.execute import (
    ALL_PARTITIONS,
    Block,
    Containment,
    Contains,
    Count,
    Counts,
    MemberPage,
    Members,
    Outlook,
    PartitionSet,
    PlanExecutor,
    StepTrace,
    Trace,
)
from engine.backends.base.membership import Change, ChangePage, Membership, MembershipReader, MembershipStore
from engine.backends.base.store import Capabilities, Role, Stats, Store
from engine.backends.base.upkeep import (
    FamilyFigures,
    Finding,
    StoredKind,
    StoreFault,
    StoreFigures,
    StoreFile,
    StoreProgress,
    StoreVerified,
    Upkeep,
)
from engine.backends.base.users import Profile, UserReader
from engine.backends.base.write import Appended, DataWriter, EventRecord, Record, UserRecord

__all__ = [
    "ALL_PARTITIONS",
    "NEEDED_ROLES",
    "PROTOCOLS",
    "Appended",
    "AttributeFacts",
    "AttributePlace",
    "Backend",
    "Block",
    "Capabilities",
    "CatalogReader",
    "Change",
    "ChangePage",
    "Containment",
    "Contains",
    "Count",
    "Counts",
    "DataWriter",
    "DocumentKeeper",
    "Documents",
    "EventNameFacts",
    "EventPlace",
    "EventRecord",
    "FamilyFigures",
    "Finding",
    "MemberPage",
    "Members",
    "Membership",
    "MembershipReader",
    "MembershipStore",
    "Outlook",
    "PartitionSet",
    "PlanExecutor",
    "Profile",
    "Record",
    "Role",
    "SeenNames",
    "Stats",
    "StepTrace",
    "Store",
    "StoreFault",
    "StoreFigures",
    "StoreFile",
    "StoreProgress",
    "StoreVerified",
    "StoredKind",
    "Trace",
    "Upkeep",
    "UserReader",
    "UserRecord",
    "ValueCount",
    "backend_of",
    "upkeep_of",
]
