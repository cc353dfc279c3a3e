"""Event tables: every event of an account as columns, and the aggregates and sequences over them.

`EventTables` is the entrance; `EventRow` goes in, the `Resolved…` structs ask. `ColumnCache` is shared by the
accounts of a store.
"""

from engine.backends.local.events.cache import COLUMN_CACHE_BYTES_DEFAULT as COLUMN_CACHE_BYTES_DEFAULT
from engine.backends.local.events.cache import ColumnCache as ColumnCache
from engine.backends.local.events.facts import TableFacts as TableFacts
from engine.backends.local.events.importing import ArrivedRows as ArrivedRows
from engine.backends.local.events.importing import ColumnNumbers as ColumnNumbers
from engine.backends.local.events.importing import RowUsers as RowUsers
from engine.backends.local.events.model import NEVER as NEVER
from engine.backends.local.events.model import EventRow as EventRow
from engine.backends.local.events.model import ResolvedEventMatch as ResolvedEventMatch
from engine.backends.local.events.model import ResolvedSelection as ResolvedSelection
from engine.backends.local.events.model import ResolvedSequence as ResolvedSequence
from engine.backends.local.events.model import RowCondition as RowCondition
from engine.backends.local.events.part import TimeSpan as TimeSpan
from engine.backends.local.events.tables import EventStatistics as EventStatistics
from engine.backends.local.events.tables import EventTables as EventTables
