"""Documents that a command reads, and their faults: each with file, line, column and path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from milepost.documents import DocumentError
from milepost.documents.places import Places
from milepost.errors import InvalidArgument
from milepost.v1.journey_pb2 import Warning

STANDARD_STREAM = "-"

JourneyFile = Annotated[
    str, typer.Argument(metavar="FILE", help="Journey as YAML or JSON; `-` reads standard input.")
]


@dataclass(frozen=True)
class Source:
    """A document's text and its name. `field` is the field of requests that the document fills."""

    file: str
    text: str
    field: str = ""

    @classmethod
    def read(cls, file: str, field: str = "") -> Source:
        """Reads a file or the standard input. Ends the command when that is not possible."""
        try:
            if file == STANDARD_STREAM:
                return cls(file, sys.stdin.read(), field)
            return cls(file, Path(file).read_text(encoding="utf-8"), field)
        except UnicodeDecodeError as error:
            refuse([f"{file}: {error}"], error)
        except OSError as error:
            refuse_file(file, error)

    def where(self, path: str) -> str:
        """File, line, column and path for a field of a request; its path alone when it is not of the
        document.
        """
        inside = self._inside(path)
        return path if inside is None else self._place(inside)

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Prints each fault of the document with its place, and ends the command."""
        try:
            yield
        except DocumentError as error:
            refuse([f"{self._place(path, error.position)}: {what}" for path, what in error.faults], error)
        except InvalidArgument as error:
            if all(self._inside(each.field) is None for each in error.violations):
                raise
            refuse([f"{self.where(each.field)}: {each.description}" for each in error.violations], error)

    @cached_property
    def _places(self) -> Places:
        return Places(self.file, self.text)

    def _inside(self, path: str) -> str | None:
        if not self.field or path == self.field:
            return path.removeprefix(self.field)
        start = f"{self.field}."
        return path.removeprefix(start) if path.startswith(start) else None

    def _place(self, path: str, position: tuple[int, int] | None = None) -> str:
        return self._places.of(path, position)


def faults_of(source: Source | None) -> AbstractContextManager[None]:
    """As `Source.faults`; nothing for no document."""
    return nullcontext() if source is None else source.faults()


def show_warnings(
    warnings: Iterable[Warning], where: Callable[[str], str], *, beside_json: bool = False
) -> None:
    """Prints possible mistakes with their places; beside JSON, to the standard error."""
    for each in warnings:
        print(
            f"warning: {where(each.field)}: {each.description}",
            file=sys.stderr if beside_json else sys.stdout,
        )


def refuse_file(file: str | Path, error: OSError) -> NoReturn:
    """Says why a file cannot be read or written, and ends the command."""
    refuse([f"{file}: {error.strerror or error}"], error)


def refuse(lines: list[str], error: Exception) -> NoReturn:
    """Prints what is wrong, a line for each fault, and ends the command."""
    for line in lines:
        print(f"milepost: {line}", file=sys.stderr)
    raise typer.Exit(1) from error
