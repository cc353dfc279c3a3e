"""The figures of the service benchmarks, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from milepost import Client
from milepost.cli.service_process import ServiceProcess
from milepost.sample.load import Loaded


@dataclass(frozen=True)
class Subject:
    """The measured service, on a new store that has just loaded the sample: the loader's result, and the
    processor time of the service.
    """

    service: ServiceProcess
    client: Client
    loaded: Loaded
    load_cpu_seconds: float


@dataclass(frozen=True)
class Figure:
    """One line of the table; `beside` is the figure to compare with, if any."""

    what: str
    value: float
    unit: str
    beside: float | None = None
    beside_what: str = ""

    @property
    def ratio(self) -> float | None:
        """The value relative to `beside`."""
        return None if not self.beside else self.value / self.beside


def table(title: str, figures: Sequence[Figure]) -> Table:
    """The figures as a table."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("what")
    shown.add_column("figure", justify="right")
    shown.add_column("unit")
    shown.add_column("beside", justify="right")
    shown.add_column("ratio", justify="right")
    for figure in figures:
        beside = "" if figure.beside is None else f"{number(figure.beside)} ({figure.beside_what})"
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        shown.add_row(figure.what, number(figure.value), figure.unit, beside, ratio)
    return shown


def number(value: float) -> str:
    """Three significant digits below a thousand, whole numbers above."""
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
