"""Variables that tell the callers of locust what to do."""

from __future__ import annotations

PROFILE_VARIABLE = "MILEPOST_LOAD_PROFILE"
"""File of the profile."""
CALLS_VARIABLE = "MILEPOST_LOAD_CALLS"
"""Number of calls after which the run ends; unset = it ends by its time."""
ACCOUNT_VARIABLE = "MILEPOST_ACCOUNT"
