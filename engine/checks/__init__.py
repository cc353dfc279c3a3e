"""What is checked of data at the door: row by row, or column by column for imports.

Both name a fault alike: a reason for programs, the field below the row, a description for people.
"""

from engine.checks.columns import RowFaults as RowFaults
from engine.checks.columns import check_columns as check_columns
from engine.checks.columns import check_user_columns as check_user_columns
from engine.checks.rows import Fault as Fault
from engine.checks.rows import Times as Times
from engine.checks.rows import check_event as check_event
from engine.checks.rows import check_name as check_name
from engine.checks.rows import check_user as check_user
from engine.checks.rows import is_longer as is_longer
