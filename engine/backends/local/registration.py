"""The embedded backend as the registry knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from engine.backends.local import offline
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.process_memory import limit_arenas
from engine.backends.registry import Registration
from engine.clock import Stamp


def open_local(location: str, settings: Mapping[str, Any], clock: Callable[[], Stamp]) -> LocalBackend:
    """Opens or creates the store in the directory `location`."""
    return LocalBackend.open(Path(location), settings=msgspec.convert(settings, LocalSettings), clock=clock)


LOCAL = Registration(
    open=open_local,
    settings=msgspec.structs.asdict(LocalSettings()),
    prepare_process=limit_arenas,
    offline=offline,
)
