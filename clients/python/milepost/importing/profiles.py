"""Profiles: the column names of well-known exports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from milepost.importing.settings import Settings

# A track call has `event`; the other calls (page, screen, identify, group, alias) are named by their type.
_SEGMENT: Mapping[str, Any] = {
    "user_id_column": "userId",
    "name_column": "event",
    "time_column": "originalTimestamp",
    "event_id_column": "messageId",
    "flatten": ("properties",),
    "skip_objects": True,
    "fallbacks": {"event": ("type",), "originalTimestamp": ("timestamp",)},
}
PROFILES: Mapping[str, Mapping[str, Any]] = {"segment": _SEGMENT, "rudderstack": _SEGMENT}


def profiled(settings: Settings, profile: str) -> Settings:
    """The settings of a profile, except where the caller changed the default. Raises KeyError."""
    defaults = Settings()
    given = {
        name: value
        for name, value in PROFILES[profile].items()
        if getattr(settings, name) == getattr(defaults, name)
    }
    return dataclasses.replace(settings, profile=profile, **given)
