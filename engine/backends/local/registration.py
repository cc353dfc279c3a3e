"""The embedded backend as the registry knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from engine.backends.local import offline
from engine.backends.local.backend import LocalBackend
from engine.backends.local.serving.tools import LocalServingTools
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.in_memory import LOCATION
from engine.backends.registry import Registration
from engine.clock import Stamp
from engine.errors import FailedPrecondition
from engine.process_memory import limit_arenas


def open_local(location: str, settings: Mapping[str, Any], clock: Callable[[], Stamp]) -> LocalBackend:
    """Opens or creates the store in the directory `location`, or a new one in memory for `:memory:`.

    Raises FailedPrecondition (GROUPS_DIFFER) when the settings name another number of groups than an existing
    store has.
    """
    converted = msgspec.convert(settings, LocalSettings)
    if location == LOCATION:
        return LocalBackend.in_memory(settings=converted, clock=clock)
    opened = LocalBackend.open(Path(location), settings=converted, clock=clock)
    if settings.get("groups", opened.groups) != opened.groups:
        opened.close()
        raise FailedPrecondition(
            f"the store in {location} has {opened.groups} groups, and --groups says {settings['groups']}: the"
            " number is fixed when a store is created; leave the setting out",
            reason="GROUPS_DIFFER",
        )
    return opened


LOCAL = Registration(
    open=open_local,
    settings=LocalSettings,
    prepare_process=limit_arenas,
    offline=offline,
    serving=LocalServingTools(),
)
