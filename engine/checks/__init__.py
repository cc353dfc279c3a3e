"""Checks of incoming data: row by row, or column by column for imports.

Both report faults alike: a reason for programs, the field within the row, a description for people.
"""

from engine.checks.columns import RowFaults as RowFaults
from engine.checks.columns import check_columns as check_columns
from engine.checks.columns import check_user_columns as check_user_columns
from engine.checks.rows import Fault as Fault
from engine.checks.rows import Times as Times
from engine.checks.rows import attribute_count_fault as attribute_count_fault
from engine.checks.rows import check_event as check_event
from engine.checks.rows import check_name as check_name
from engine.checks.rows import check_user as check_user
from engine.checks.rows import consent_count_fault as consent_count_fault
from engine.checks.rows import identity_count_fault as identity_count_fault
from engine.checks.rows import is_longer as is_longer
from engine.checks.rows import list_length_fault as list_length_fault
from engine.checks.rows import shortened as shortened
