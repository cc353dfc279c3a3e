"""What is remembered of an import between runs: a small JSON file, replaced as a whole after each segment."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from milepost.importing.errors import CannotResume
from milepost.importing.settings import Settings

VERSION = 2
REMEMBERED = timedelta(hours=24)
"""How long a service remembers the request ids that make a segment sent again count once."""
SAMPLE_BYTES = 64 * 1024
SAMPLES = 16
DIGEST_BYTES = 12


@dataclass
class Progress:
    """How far an import came. `sending_since` is when the segment was first sent that is not acknowledged."""

    import_id: str
    """Of the file's content and the settings; the prefix of the request ids."""
    version: int = VERSION
    segments: int = 0
    rows: int = 0
    malformed: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    rejected_bytes: int = 0
    """The length of the file of rejected rows after the last acknowledged segment."""
    revision: str = ""
    sending_since: str = ""
    complete: bool = False

    def check_resumable(self, has_event_ids: bool, now: datetime) -> None:
        """Raises CannotResume when sending the open segment again could count its events twice."""
        if not self.sending_since or has_event_ids:
            return
        since = datetime.fromisoformat(self.sending_since)
        if now - since >= REMEMBERED:
            raise CannotResume(
                f"segment {self.segments + 1} was sent at {self.sending_since} and not acknowledged. Whether"
                " the service took it is remembered for 24 hours only, and not all rows have event ids: sent"
                " again, they could count twice. Compare the number of events, then go on with --force"
            )


def import_id(path: Path, settings: Settings, account: str, request_id: str) -> str:
    """A digest of what is imported and how: the file's size, time of change and samples of its content, the
    account and the settings. The path does not matter. `request_id`, where given, makes it another import.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    status = path.stat()
    plain = dataclasses.asdict(settings) | {"kinds": sorted(settings.kinds.items())}
    told = [status.st_size, status.st_mtime_ns, account, request_id, plain]
    digest.update(json.dumps(told, sort_keys=True).encode())
    with path.open("rb") as file:
        for sample in range(SAMPLES + 1):
            file.seek(max(0, status.st_size - SAMPLE_BYTES) * sample // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
    return f"import-{digest.hexdigest()}"


def load(path: Path, id_: str) -> Progress:
    """What a former run left, or a new start. Raises CannotResume when it is of another import."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Progress(id_)
    except ValueError as error:
        raise CannotResume(
            f"{path} tells no progress: {error}. Remove it to import from the start"
        ) from error
    known = {field.name for field in dataclasses.fields(Progress)}
    if not isinstance(stored, dict) or stored.get("version") != VERSION or not stored.keys() <= known:
        raise CannotResume(f"{path} is of another version. Remove it to import from the start")
    if stored.get("import_id") != id_:
        raise CannotResume(
            f"{path} is of another import: the file has changed since, or the settings differ."
            " Remove it to import from the start"
        )
    return Progress(**stored)


def save(path: Path, progress: Progress) -> None:
    """Replaces the file: after a crash it is the old one or the new one."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        json.dump(dataclasses.asdict(progress), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


def now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)
