"""The boundary between the rule engine and a user store, as roles.

A backend takes records in, makes them durable, and executes plans over them. Dense ids, bitmaps, columns and
keys stay inside it: users cross this boundary as the caller's own user ids. It composes the roles of this
package, one per file, and announces them in its capabilities; `Backend` combines those that the engine needs.
Callers depend on the smallest role that suffices.

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
    ValueCount,
)
from engine.backends.base.documents import DocumentKeeper, Documents
from engine.backends.base.execute import (
    ALL_PARTITIONS,
    Answer,
    Ask,
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
from engine.backends.base.lookups import (
    AttributeLookup,
    ConsentLookup,
    EventLookup,
    Found,
    FoundText,
    IdentityLookup,
    Lookup,
    LookupReader,
    TextLookup,
    UserLookup,
)
from engine.backends.base.measured import Measured
from engine.backends.base.membership import (
    MEMBER,
    NOT_MEMBER,
    UNDECIDED,
    Change,
    ChangePage,
    Flags,
    Membership,
    MembershipReader,
    MembershipStore,
    Published,
    PublishedMembership,
)
from engine.backends.base.serving import (
    Served,
    ServedMany,
    ServedScope,
    ServingReader,
    ServingTools,
    ServingWriter,
)
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
from engine.backends.base.write import (
    Appended,
    DataWriter,
    EventRecord,
    NameKind,
    Naming,
    Record,
    UserRecord,
)

__all__ = [
    "ALL_PARTITIONS",
    "MEMBER",
    "NEEDED_ROLES",
    "NOT_MEMBER",
    "PROTOCOLS",
    "UNDECIDED",
    "Answer",
    "Appended",
    "Ask",
    "AttributeFacts",
    "AttributeLookup",
    "AttributePlace",
    "Backend",
    "Block",
    "Capabilities",
    "CatalogReader",
    "Change",
    "ChangePage",
    "ConsentLookup",
    "Containment",
    "Contains",
    "Count",
    "Counts",
    "DataWriter",
    "DocumentKeeper",
    "Documents",
    "EventLookup",
    "EventNameFacts",
    "EventPlace",
    "EventRecord",
    "FamilyFigures",
    "Finding",
    "Flags",
    "Found",
    "FoundText",
    "IdentityLookup",
    "Lookup",
    "LookupReader",
    "Measured",
    "MemberPage",
    "Members",
    "Membership",
    "MembershipReader",
    "MembershipStore",
    "NameKind",
    "Naming",
    "Outlook",
    "PartitionSet",
    "PlanExecutor",
    "Profile",
    "Published",
    "PublishedMembership",
    "Record",
    "Role",
    "Served",
    "ServedMany",
    "ServedScope",
    "ServingReader",
    "ServingTools",
    "ServingWriter",
    "Stats",
    "StepTrace",
    "Store",
    "StoreFault",
    "StoreFigures",
    "StoreFile",
    "StoreProgress",
    "StoreVerified",
    "StoredKind",
    "TextLookup",
    "Trace",
    "Upkeep",
    "UserLookup",
    "UserReader",
    "UserRecord",
    "ValueCount",
    "backend_of",
    "upkeep_of",
]
