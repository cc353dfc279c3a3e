"""Event tables: the events of an account as columns, with aggregates and sequences over them.

`EventTables` is the entry point. It takes `EventRow` in and answers the `Resolved…` structs. The accounts of
a store share one `ColumnCache`.
"""

from engine.backends.local.events.aggregate import row_counts_of as row_counts_of
from engine.backends.local.events.all_rows import AllRows as AllRows
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
from engine.backends.local.events.one_user import RowsOfOne as RowsOfOne
from engine.backends.local.events.one_user import aggregate_of_one_passes as aggregate_of_one_passes
from engine.backends.local.events.one_user import sequence_of_one_passes as sequence_of_one_passes
from engine.backends.local.events.part import TimeSpan as TimeSpan
from engine.backends.local.events.shared_part import SharedPart as SharedPart
from engine.backends.local.events.shared_rows import SharedRows as SharedRows
from engine.backends.local.events.shared_rows import shared_time as shared_time
from engine.backends.local.events.table import Table as Table
from engine.backends.local.events.tables import BRIEF_USERS_MAX as BRIEF_USERS_MAX
from engine.backends.local.events.tables import EventTables as EventTables
