"""Profiles: how many callers call what, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from clients.load.calls import CALLS

PROFILES = Path(__file__).parent / "profiles"


class BadProfile(ValueError):
    """A profile that cannot be used."""


@dataclass(frozen=True)
class Profile:
    """A mix of calls. `calls_per_second` is of all callers together; 0 = as fast as the answers come."""

    users: int
    calls_per_second: float
    seconds: float
    customers: int
    mix: Mapping[str, int]

    def with_options(
        self, users: int | None, calls_per_second: float | None, seconds: float | None
    ) -> Profile:
        """The profile with what was given on the command line."""
        return checked(
            replace(
                self,
                users=self.users if users is None else users,
                calls_per_second=self.calls_per_second if calls_per_second is None else calls_per_second,
                seconds=self.seconds if seconds is None else seconds,
            )
        )


def find(name: str) -> Path:
    """The file of a profile, given by its path or as the name of one in `profiles/`."""
    return path if (path := Path(name)).suffix else PROFILES / f"{name}.yaml"


def read(path: Path) -> Profile:
    """The profile in a file. Raises BadProfile."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = {field.name for field in fields(Profile)}
    if not isinstance(found, dict) or set(found) != names:
        raise BadProfile(f"{path}: expected exactly the keys {', '.join(sorted(names))}")
    return checked(Profile(**found))


def checked(profile: Profile) -> Profile:
    """The profile, if it can be used. Raises BadProfile."""
    numbers: dict[str, Any] = {"users": profile.users, "customers": profile.customers}
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise BadProfile(f"{name} must be a whole number of at least 1, not {number!r}")
    if profile.seconds <= 0 or profile.calls_per_second < 0:
        raise BadProfile("seconds must be positive, and calls_per_second not negative")
    if unknown := sorted(set(profile.mix) - set(CALLS)):
        raise BadProfile(f"mix: there is no call {unknown[0]!r}; there are {', '.join(sorted(CALLS))}")
    if not any(profile.mix.values()) or any(share < 0 for share in profile.mix.values()):
        raise BadProfile("mix: shares must not be negative, and some must be positive")
    return profile
