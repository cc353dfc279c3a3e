"""What commands use when nothing else is given."""

from __future__ import annotations

import os

DEFAULT_ACCOUNT = "demo"
ACCOUNT_VARIABLE = "MILEPOST_ACCOUNT"


def account_option(account_id: str) -> str:
    """` --account acme`, for commands in messages; empty where the account is the one used without it."""
    used = os.environ.get(ACCOUNT_VARIABLE) or DEFAULT_ACCOUNT
    return "" if account_id == used else f" --account {account_id}"
