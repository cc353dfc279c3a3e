"""Profiles: how many callers call what, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from clients.load.calls import CALLS
from milepost._near import did_you_mean, listed

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
    """The file of a profile, given by its path or as the name of one in `profiles/`. Raises BadProfile when
    there is none of that name.
    """
    path = Path(name)
    if not path.suffix:
        known = sorted(each.stem for each in PROFILES.glob("*.yaml"))
        if name not in known:
            near = did_you_mean(name, known)
            raise BadProfile(f"there is no profile {name!r}{near or '.'}{listed('profiles', known)}")
        return PROFILES / f"{name}.yaml"
    return path


def read(path: Path) -> Profile:
    """The profile in a file. Raises BadProfile."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadProfile(f"{path}: is not YAML: {error}") from error
    names = sorted(field.name for field in fields(Profile))
    if not isinstance(found, dict):
        raise BadProfile(f"{path}: expected the keys {', '.join(names)}")
    if unknown := [str(key) for key in found if key not in names]:
        near = did_you_mean(unknown[0], names) or "."
        raise BadProfile(f"{path}: there is no key {unknown[0]!r}{near}{listed('keys', names)}")
    if missing := [name for name in names if name not in found]:
        raise BadProfile(f"{path}: the key {missing[0]!r} is missing.{listed('keys', names)}")
    try:
        return checked(Profile(**found))
    except BadProfile as error:
        raise BadProfile(f"{path}: {error}") from error


def checked(profile: Profile) -> Profile:
    """The profile, if it can be used. Raises BadProfile."""
    numbers: dict[str, Any] = {"users": profile.users, "customers": profile.customers}
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise BadProfile(f"{name} must be a whole number of at least 1, not {number!r}")
    for name, number in {"seconds": profile.seconds, "calls_per_second": profile.calls_per_second}.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise BadProfile(f"{name} must be a number, not {number!r}")
    shares: Any = profile.mix
    if not isinstance(shares, dict) or not all(isinstance(each, int) for each in shares.values()):
        raise BadProfile(f"mix must have a whole number for each call, not {shares!r}")
    if profile.seconds <= 0 or profile.calls_per_second < 0:
        raise BadProfile("seconds must be positive, and calls_per_second not negative")
    if unknown := sorted(set(profile.mix) - set(CALLS)):
        raise BadProfile(f"mix: there is no call {unknown[0]!r}; there are {', '.join(sorted(CALLS))}")
    if not any(profile.mix.values()) or any(share < 0 for share in profile.mix.values()):
        raise BadProfile("mix: shares must not be negative, and some must be positive")
    return profile
