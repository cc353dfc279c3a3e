"""Log lines for what happens to API keys: which key, and by whom. Never a secret."""

from __future__ import annotations

import structlog

from engine.resources.records import ApiKey
from service.auth.caller import current_key

_logger = structlog.get_logger("milepost.audit")


def key_changed(what: str, key: ApiKey) -> None:
    """Notes that the current call created, updated or rotated a key."""
    _logger.info(f"API key {what}", api_key=key.name, scopes=[scope.value for scope in key.scopes], by=_by())


def key_deleted(name: str) -> None:
    """Notes that the current call deleted a key."""
    _logger.info("API key deleted", api_key=name, by=_by())


def _by() -> str:
    return current_key() or "anyone: no key is needed"
