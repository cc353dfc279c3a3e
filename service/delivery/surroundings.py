"""What the service gives all sinks. Apart from them, as settings are read where no sink is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import certifi

from service.delivery.guard import Guard


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where and how outputs may go.

    Files go below `output_dir`; a service that keeps nothing may have none. Whatever connects asks `guard`
    for the addresses, and trusts the CAs in the PEM file `ca_file`.
    """

    output_dir: Path | None
    guard: Guard = field(default_factory=Guard)
    ca_file: Path = Path(certifi.where())
