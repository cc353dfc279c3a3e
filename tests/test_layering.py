"""The imports run one way, and never in a circle.

service → engine, all but engine.backends.{local, clickhouse}
engine.{resources, audiences} → engine.{plan, criteria}
                              → engine.backends.base ← engine.backends.local ← engine.backends.clickhouse

The rules are data (`RULES`). The imports are read from the source, so an import inside a function or under
`TYPE_CHECKING` counts too. What a module imports, all that it leads to included, keeps the rules of that
module. A backend is reached through `engine.backends.registry` alone, which names it but imports it not.
"""

from __future__ import annotations

import ast
import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IMPORT_ROOTS = {"engine": ROOT, "service": ROOT, "milepost": ROOT / "clients" / "python"}

TRANSPORT = ("grpc", "grpc_health", "grpc_reflection", "grpc_status", "google", "milepost")
STORES = ("lmdb", "pyroaring")
HTTP = ("connectrpc", "protobuf", "starlette", "uvicorn")
BACKENDS = (
    "engine.backends.local",
    *(
        f"engine.backends.clickhouse.{room}"
        for room in ("gateway", "moving", "backend", "settings", "registration")
    ),
)
"""What may have the files of a store, and import the parts of the embedded one."""
SQL = ("sqlite3", "duckdb", "chdb", "clickhouse_connect", "sqlalchemy")


@dataclass(frozen=True)
class Import:
    """One imported module; `lazy` when only a call or a type checker imports it. `taken_from` is where
    `from a import b` takes it from: when `a.b` is no module, it stands for `a`.
    """

    module: str
    lazy: bool
    line: int
    taken_from: str = ""


@dataclass(frozen=True)
class Rule:
    """Modules at or below `layer`, but not below (one of) `except_below`, import nothing at or below
    `forbidden`, nor anything that leads there.
    """

    layer: str
    forbidden: tuple[str, ...]
    except_below: str | tuple[str, ...] = ()
    leads_by_lazy_imports: bool = True
    """False: what a module on the way imports only when it is called does not lead anywhere."""

    def binds(self, module: str) -> bool:
        rooms = (self.except_below,) if isinstance(self.except_below, str) else self.except_below
        return is_within(module, self.layer) and not any(is_within(module, room) for room in rooms)


RULES = (
    Rule("engine", (*TRANSPORT, "service", "tests")),
    # Dense ids and bitmaps stay inside a backend; members cross its boundary as user ids.
    Rule("engine", STORES, except_below=BACKENDS),
    Rule("engine", SQL, except_below="engine.backends.clickhouse"),
    *(
        Rule(layer, (*SQL, "numpy", "engine.resources", "engine.audiences"))
        for layer in ("engine.criteria", "engine.plan")
    ),
    # Columns that are written are numpy arrays.
    Rule("engine.backends.base", SQL),
    Rule("engine.criteria", ("engine.plan", "engine.backends.base")),
    Rule("engine.backends", ("engine.resources", "engine.audiences")),
    # What a gateway keeps itself is in the files of an embedded store.
    Rule("engine", ("engine.backends.local",), except_below=BACKENDS),
    Rule("engine", ("engine.backends.clickhouse",), except_below="engine.backends.clickhouse"),
    Rule("service", (*STORES, *SQL, "engine.backends.local", "engine.backends.clickhouse", "tests")),
    # Not every server has it: only what an import calls may need it.
    Rule("engine", ("pyarrow",)),
    Rule("service", ("pyarrow",), except_below="service.arrow", leads_by_lazy_imports=False),
    Rule("service", HTTP, except_below="service.web", leads_by_lazy_imports=False),
    # The same holds for the clients of brokers.
    *(
        Rule("service", clients, except_below=f"service.delivery.sinks.{kind}", leads_by_lazy_imports=False)
        for kind, clients in (
            ("kafka", ("confluent_kafka",)),
            ("nats", ("nats", "nkeys")),
            ("redis", ("redis",)),
        )
    ),
    Rule("milepost", ("engine", "service", "tests", *STORES)),
    # Services without webhooks, and readers, do without their libraries: only what a delivery calls needs
    # them.
    Rule(
        "service",
        ("httpx", "httpcore", "cloudevents", "standardwebhooks"),
        except_below="service.delivery",
        leads_by_lazy_imports=False,
    ),
)

# Some commands start a service of their own or work on its files, and tests have one in their process; the
# others do without the server installed.
MAY_IMPORT_SERVICE_LAZILY = (
    "milepost.cli.serve",
    "milepost.cli.demo",
    "milepost.cli.init",
    "milepost.cli.store",
    "milepost.testing.in_process",
    "milepost.testing.running",
)


def is_within(module: str, ancestor: str) -> bool:
    """Whether `module` is `ancestor` or lies below it."""
    return module == ancestor or module.startswith(ancestor + ".")


def module_name(path: Path, import_root: Path) -> str:
    """The dotted name of the module in the file `path`."""
    parts = path.relative_to(import_root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, is_package: bool) -> Iterator[Import]:
    """Every import in `source`; `from a import b` gives both `a` and `a.b`, as `b` may be a module."""
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    while pending:
        node, lazy = pending.pop()
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, lazy, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, is_package)
            yield Import(base, lazy, node.lineno)
            yield from (Import(f"{base}.{alias.name}", lazy, node.lineno, base) for alias in node.names)
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        inside = lazy or is_typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        pending.extend((child, inside) for child in ast.iter_child_nodes(node))


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    steps_up = node.level - 1 if is_package else node.level
    parts = module.split(".")
    package = parts[: len(parts) - steps_up]
    return ".".join([*package, node.module] if node.module else package)


def breaches(source: str, module: str, is_package: bool = False) -> list[str]:
    """One line for each import of `module` that a rule forbids."""
    found = set()
    for imported in counted_imports(source, module, is_package):
        for rule in RULES:
            if not rule.binds(module):
                continue
            found |= {
                f"{module}:{imported.line} imports {forbidden}"
                for forbidden in rule.forbidden
                if is_within(imported.module, forbidden)
            }
    return sorted(found)


def counted_imports(source: str, module: str, is_package: bool = False) -> Iterator[Import]:
    """Every import but those of the service by commands that may have it."""
    for imported in imports_of(source, module, is_package):
        is_exempt = imported.lazy and module in MAY_IMPORT_SERVICE_LAZILY
        if not (is_exempt and is_within(imported.module, "service")):
            yield imported


Graph = dict[str, tuple[Import, ...]]
"""Module → what it imports."""


def import_graph() -> Graph:
    """All imports of all source files."""
    return {
        module: tuple(counted_imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"))
        for path, module in source_files()
    }


def circle(graph: Graph) -> list[str]:
    """Modules that import each other in a circle, lazily or not; empty when there is none.

    Importing a.b does not count as importing the package a: its public face leads everywhere. Taking
    something from a does.
    """
    try:
        TopologicalSorter({module: set(_named(graph, graph[module])) for module in graph}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _named(graph: Graph, imports: Sequence[Import]) -> Iterator[str]:
    """The modules that imports name, each once it is known which names are modules."""
    bases = {(each.taken_from, each.line) for each in imports}
    for each in imports:
        if (each.module, each.line) not in bases:
            module = each.module if each.module in graph else each.taken_from
            if module in graph:
                yield module


def ways_to_breach(graph: Graph, rule: Rule) -> Iterator[tuple[str, ...]]:
    """For each import of what the rule forbids, the shortest way to it from a module that the rule binds."""
    ways: dict[str, tuple[str, ...]] = {module: (module,) for module in graph if rule.binds(module)}
    pending = deque(ways)
    while pending:
        at = pending.popleft()
        for imported in graph[at]:
            if imported.lazy and not rule.leads_by_lazy_imports:
                continue
            if any(is_within(imported.module, forbidden) for forbidden in rule.forbidden):
                yield (*ways[at], imported.module)
                continue
            # Importing a.b.c runs a.b as well. It also runs a, but a public face leads everywhere:
            # that counts only for those who import from it.
            parts = imported.module.split(".")
            for name in (".".join(parts[:end]) for end in range(min(2, len(parts)), len(parts) + 1)):
                if name in graph and name not in ways:
                    ways[name] = (*ways[at], name)
                    pending.append(name)


def source_files() -> Iterator[tuple[Path, str]]:
    for package, import_root in IMPORT_ROOTS.items():
        for path in sorted((import_root / package).rglob("*.py")):
            yield path, module_name(path, import_root)


def test_no_module_has_a_forbidden_import() -> None:
    found = [
        line
        for path, module in source_files()
        for line in breaches(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    ]
    assert found == []


def test_no_module_leads_to_a_forbidden_import() -> None:
    graph = import_graph()
    assert [" → ".join(way) for rule in RULES for way in ways_to_breach(graph, rule)] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(import_graph()) == []


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"p": "", "p.a": "from p import b", "p.b": "import os"}, False),
        ({"p": "", "p.a": "from p import b", "p.b": "import p.a"}, True),
        ({"p": "", "p.a": "from p.b import x", "p.b": "def f():\n    from p.a import y"}, True),
        ({"p": "", "p.a": "from p.b import x", "p.b": "if TYPE_CHECKING:\n    from p.a import y"}, True),
        # The face of a package counts for those who take something from it.
        ({"p": "from p.a import x", "p.a": "from p import b", "p.b": ""}, False),
        ({"p": "from p.a import x", "p.a": "from p import b, face", "p.b": ""}, True),
    ],
)
def test_a_circle_is_found(sources: dict[str, str], expected: bool) -> None:
    graph = {module: tuple(imports_of(source, module, module == "p")) for module, source in sources.items()}
    assert bool(circle(graph)) is expected


def test_indirect_import_is_detected() -> None:
    rule = Rule("service", ("lmdb",), except_below="service.arrow", leads_by_lazy_imports=False)
    graph: Graph = {
        "service.a": (Import("engine.b.C", lazy=False, line=1),),
        "service.lazy": (Import("engine.f", lazy=True, line=1),),
        "engine": (),
        "engine.b": (Import("engine.d.e", lazy=False, line=1),),
        "engine.d": (Import("lmdb", lazy=False, line=1),),
        "engine.d.e": (),
        "engine.f": (Import("lmdb", lazy=False, line=1),),
    }
    eager = ("service.a", "engine.b", "engine.d", "lmdb")
    assert list(ways_to_breach(graph, rule)) == [eager]
    strict = dataclasses.replace(rule, leads_by_lazy_imports=True)
    assert set(ways_to_breach(graph, strict)) == {eager, ("service.lazy", "engine.f", "lmdb")}


@pytest.mark.parametrize("layer", sorted({rule.layer for rule in RULES}))
def test_every_layer_with_a_rule_exists(layer: str) -> None:
    modules = [module for _, module in source_files() if is_within(module, layer)]
    assert modules != [], f"no module of {layer}: its rules check nothing"


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("engine.errors", "import grpc", ["engine.errors:1 imports grpc"]),
        ("engine.errors", "from google.protobuf import message", ["engine.errors:1 imports google"]),
        (
            "engine.plan.compile",
            "from ..backends.local import store",
            ["engine.plan.compile:1 imports engine.backends.local"],
        ),
        (
            "engine.plan.compile",
            "from engine.backends import local",
            ["engine.plan.compile:1 imports engine.backends.local"],
        ),
        ("engine.plan.compile", "import numpy as np", ["engine.plan.compile:1 imports numpy"]),
        ("engine.plan.compile", "from engine.criteria import model", []),
        ("engine.audiences.estimate", "import pyroaring", ["engine.audiences.estimate:1 imports pyroaring"]),
        (
            "engine.backends.local.index",
            "import lmdb, pyroaring\nfrom engine.backends.base import Backend",
            [],
        ),
        (
            "engine.resources.tree",
            "def f():\n    from engine.backends.local.storage.write_ahead_log import Log",
            ["engine.resources.tree:2 imports engine.backends.local"],
        ),
        ("engine.backends.localities", "import lmdb", ["engine.backends.localities:1 imports lmdb"]),
        (
            "service.config",
            "from engine.backends.local import settings",
            ["service.config:1 imports engine.backends.local"],
        ),
        ("service.config", "from engine.backends import registry", []),
        ("service.handlers.ingest", "import lmdb", ["service.handlers.ingest:1 imports lmdb"]),
        ("milepost.client", "def f():\n    import service.server", ["milepost.client:2 imports service"]),
        ("milepost.cli.serve", "def f():\n    from service import server", []),
        ("milepost.cli.serve", "from service import server", ["milepost.cli.serve:1 imports service"]),
        ("milepost.cli.demo", "def f():\n    import engine", ["milepost.cli.demo:2 imports engine"]),
    ],
)
def test_the_rules_tell_right_from_wrong(module: str, source: str, expected: list[str]) -> None:
    assert breaches(source, module) == expected


def test_relative_imports_of_a_package_start_at_the_package_itself() -> None:
    expected = ["engine.plan:1 imports engine.backends.local"]
    assert breaches("from ..backends.local import log", "engine.plan", is_package=True) == expected
    assert breaches("from .passes import share", "engine.plan", is_package=True) == []
