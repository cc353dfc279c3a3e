"""The progress of an import, kept between runs in a small JSON file that is replaced as a whole.

There is an entry for each account that the file was imported into, so that an import into the wrong one does
not block the right one. An account is recognised by its name and the time it was made: one of
the same name on another service is another account.

An entry exists only once rows were acknowledged, or were sent and may have been taken.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from milepost.importing.errors import CannotResume
from milepost.importing.replacing import replaced
from milepost.importing.settings import Settings
from milepost.importing.user_settings import AnySettings
from milepost.v1.catalog_service_pb2 import ValueKind
from milepost.v1.data_pb2 import EventType
from milepost.v1.ingest_service_pb2 import TimeUnit

VERSION = 3
REMEMBERED = timedelta(hours=24)
"""How long a service remembers request ids. Until then, a segment that is sent again counts once."""
SAMPLE_BYTES = 64 * 1024
SAMPLES = 16
DIGEST_BYTES = 12
REFUSALS_KEPT = 100
"""Reasons with a count of their own. Rows refused for other reasons are counted together."""
OTHER_REFUSALS = "other reasons"
FROM_START = "--from-start"
FORCE = "--force"
USERS = "--users"
SEPARATOR = ", "
"""Separates the values of a repeated option."""
REPEATED_OPTIONS = (
    "--column",
    "--null-value",
    "--exclude",
    "--flatten",
    "--identity",
    "--consent",
    "--given",
    "--denied",
)


@dataclass
class Progress:
    """The progress of an import."""

    account: str
    account_created: str
    import_id: str
    """A digest of the file's content and the settings; the prefix of the request ids."""
    file: dict[str, Any]
    """Size, time of change and a digest of samples of the content."""
    settings: dict[str, str]
    """The options of the command that differ from their defaults."""
    segment_rows: int
    """Maximum rows in a segment. A segment sent again is recognised only if it has the same rows."""
    told: dict[str, int] | None
    """The kinds of CSV columns, found when the import began. Every segment is read by them."""
    attempt: int = 0
    """How often the import was started over; a part of the request ids."""
    segments: int = 0
    rows: int = 0
    malformed: int = 0
    skipped: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    without_event_ids: int = 0
    """Those of `accepted` whose rows have no event id."""
    refusals: dict[str, int] = field(default_factory=dict)
    """Rejected rows by reason: field and description."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Values left out by column, because no attribute can hold them (`skip_objects`)."""
    revision: str = ""
    sending_since: str = ""
    """When the unacknowledged segment was first sent; empty if there is none."""
    sending_rows: int = 0
    sending_without_event_ids: int = 0
    complete: bool = False

    @property
    def request_id(self) -> str:
        """The request id of the next segment."""
        attempt = f"{self.attempt}-" if self.attempt else ""
        return f"{self.import_id}-{attempt}{self.segments}"

    @property
    def left_nothing(self) -> bool:
        """Whether it is certain that no event of the import is in the service."""
        return not self.accepted and not self.sending_since

    def count_refusal(self, field_: str, description: str, rows: int) -> None:
        """Counts rows that were rejected for one reason."""
        reason = f"{field_}: {description}" if field_ else description
        if reason not in self.refusals and len(self.refusals) >= REFUSALS_KEPT:
            reason = OTHER_REFUSALS
        self.refusals[reason] = self.refusals.get(reason, 0) + rows


def new_progress(
    path: Path, settings: AnySettings, account: str, account_created: str, request_id: str, segment_rows: int
) -> Progress:
    """The progress of a new import. Its id is a digest of the file's size, time of change and samples of its
    content, of the account, the settings and `request_id`. The path does not matter.
    """
    file = _identity(path)
    plain: dict[str, Any] = dataclasses.asdict(settings) | {"kinds": sorted(settings.kinds.items())}
    # Found in the files, not given with the command.
    del plain["found_kinds"]
    identity = [file, account, request_id, plain]
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=DIGEST_BYTES)
    options = _options(settings) | ({"--request-id": request_id} if request_id else {})
    id_ = f"import-{digest.hexdigest()}"
    found = settings.found_kinds
    kinds = None if found is None else {name: int(kind) for name, kind in found.items()}
    return Progress(account, account_created, id_, file, options, segment_rows, kinds)


def _identity(path: Path) -> dict[str, Any]:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    status = path.stat()
    with path.open("rb") as file:
        for sample in range(SAMPLES + 1):
            file.seek(max(0, status.st_size - SAMPLE_BYTES) * sample // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
    return {"bytes": status.st_size, "changed_ns": status.st_mtime_ns, "sample": digest.hexdigest()}


def _options(settings: AnySettings) -> dict[str, str]:
    """The options of the command that give these settings."""
    options = {} if isinstance(settings, Settings) else {USERS: str(True)}
    for each in dataclasses.fields(settings):
        if each.name in _NO_OPTIONS:
            continue
        value, default = getattr(settings, each.name), getattr(type(settings)(), each.name)
        if value != default:
            options[_OPTION_NAMES.get(each.name, f"--{each.name.replace('_', '-')}")] = _text(
                each.name, value
            )
    return options


_OPTION_NAMES = {
    "kinds": "--column",
    "null_values": "--null-value",
    "identities": "--identity",
    "consents": "--consent",
}
_NO_OPTIONS = ("found_kinds", "fallbacks")


def _text(name: str, value: Any) -> str:
    if name == "default_type":
        return EventType.Name(value).removeprefix("EVENT_TYPE_").lower()
    if name == "time_unit":
        return {"SECONDS": "s", "MILLISECONDS": "ms", "NANOSECONDS": "ns"}.get(
            TimeUnit.Name(value).removeprefix("TIME_UNIT_"), "us"
        )
    if name == "kinds":
        kinds = sorted((key, ValueKind.Name(kind)) for key, kind in value.items())
        return SEPARATOR.join(f"{key}:{kind.removeprefix('VALUE_KIND_').lower()}" for key, kind in kinds)
    if name == "identities":
        return SEPARATOR.join(f"{key}:{each}" for key, each in sorted(value.items()))
    if isinstance(value, Mapping):
        return SEPARATOR.join(f"{key}={each}" for key, each in value.items())
    return SEPARATOR.join(map(str, value)) if isinstance(value, tuple | list | frozenset) else str(value)


_FIELDS = {each.name: each for each in dataclasses.fields(Progress)}
_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "dict[str, Any]": (dict,),
    "dict[str, str]": (dict,),
    "dict[str, int]": (dict,),
    "dict[str, int] | None": (dict, type(None)),
}
"""By the annotations of `Progress`."""


def _is_progress(entry: object) -> bool:
    """Whether an entry can be read as `Progress`."""
    if not isinstance(entry, dict):
        return False
    required = {name for name, each in _FIELDS.items() if each.default is each.default_factory is MISSING}
    if not required <= entry.keys() <= _FIELDS.keys():
        return False
    return all(isinstance(value, _JSON_TYPES[str(_FIELDS[name].type)]) for name, value in entry.items())


class ProgressFile:
    """The progress file, as an import into one account uses it."""

    def __init__(self, path: Path, account: str, account_created: str) -> None:
        self.path = path
        self._account = account
        self._created = account_created
        self._fault = ""
        self._former = self._read()
        own = [entry for entry in self._former if self._is_own(entry)]
        self.entry = Progress(**own[0]) if own else None

    def check(self) -> None:
        """Raises CannotResume if the file cannot be read."""
        if self._fault:
            raise CannotResume(
                f"{self.path} {self._fault}, so earlier imports of the file are unknown. {FROM_START} {FORCE}"
                " imports the file from its first row: rows that are in already count once if they have event"
                " ids, and twice if not",
                (FROM_START, FORCE),
            )

    def save(self, progress: Progress) -> None:
        """Saves the entry of this import."""
        self._write([dataclasses.asdict(progress)])

    def restore(self) -> None:
        """Restores the entry from when the file was opened. A file without entries is deleted."""
        if not self._fault:
            self._write([entry for entry in self._former if self._is_own(entry)])

    def _write(self, own: list[dict[str, Any]]) -> None:
        # Read again: a run for another account may have written meanwhile.
        entries = [*(entry for entry in self._read() if not self._is_own(entry)), *own]
        if not entries:
            self.path.unlink(missing_ok=True)
            return
        with replaced(self.path) as file:
            file.write(json.dumps({"version": VERSION, "imports": entries}, indent=2).encode() + b"\n")

    def _is_own(self, entry: dict[str, Any]) -> bool:
        return (entry["account"], entry["account_created"]) == (self._account, self._created)

    def _read(self) -> list[dict[str, Any]]:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except ValueError as error:
            self._fault = f"cannot be read ({error})"
            return []
        if not isinstance(stored, dict) or stored.get("version") != VERSION:
            self._fault = "was written by another version of milepost"
            return []
        entries: Any = stored.get("imports")
        if not isinstance(entries, list) or not all(map(_is_progress, entries)):
            self._fault = "does not hold what this version of milepost writes"
            return []
        return entries


def now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)
