"""Settings as a class declares them and as a command line shows them.

A field of a struct that is annotated with a `Setting` can be set by a flag and a variable of its name. The
service declares its own settings so (`service/config.py`), and a backend those of its stores.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Setting:
    """A field's `--help` text and its range. The unit is in the text and at the end of the field's name."""

    description: str
    least: float = -math.inf
    most: float = math.inf
    """When not given, `declared` fills in the maximum of the unit."""
    power_of_two: bool = False

    def fault(self, value: int | float) -> str | None:
        """What a number has to be and is not; None when it is in range."""
        # Written so that NaN is rejected.
        if not value >= self.least:
            return f"must be at least {self.least:.15g}"
        if value > self.most:
            return f"must be at most {self.most:.15g}"
        if self.power_of_two and int(value).bit_count() != 1:
            return "must be a power of two"
        return None


UNIT_MOST = {"_bytes": 1 << 46, "_ms": 10**12, "_s": 10**9, "_days": 10**4}
"""The largest number of each unit, by the end of a setting's name. Beyond, waits and addresses overflow."""
COUNT_MOST = 10**9


@dataclass(frozen=True, slots=True)
class Declared:
    """A field that is a setting."""

    name: str
    kind: Any
    setting: Setting
    default: Any

    @property
    def unit(self) -> str:
        """The unit of a plain number: a key of `UNIT_MOST`, or "" for a count."""
        return unit_of(self.name)


def declared(struct: type[msgspec.Struct]) -> tuple[Declared, ...]:
    """The fields of a struct that are settings, in order. The others are for code and tests alone."""
    hints = typing.get_type_hints(struct, include_extras=True)
    found = []
    for field in msgspec.structs.fields(struct):
        kind, *notes = typing.get_args(hints[field.name]) or (hints[field.name],)
        found += [
            Declared(field.name, kind, _bounded(field.name, kind, note), field.default)
            for note in notes
            if type(note) is Setting
        ]
    return tuple(found)


def unit_of(name: str) -> str:
    """The unit that a name ends with: a key of `UNIT_MOST`, or ""."""
    plain = name.removesuffix("_max").removesuffix("_min")
    return next((unit for unit in UNIT_MOST if plain.endswith(unit)), "")


def _bounded(name: str, kind: Any, setting: Setting) -> Setting:
    """The setting with a maximum, if it is a number without one."""
    if kind not in (int, float, int | None) or setting.most != math.inf:
        return setting
    return dataclasses.replace(setting, most=UNIT_MOST.get(unit_of(name), COUNT_MOST))
