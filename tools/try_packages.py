"""`make packages`: builds both distributions and uses what was built.

    python tools/try_packages.py                          # with the dependencies of this environment
    python tools/try_packages.py python3.11 python3.13    # each in an environment of its own, from the index

Each distribution is built as a source archive, and its wheel from that archive, so an archive that lacks a
file fails here. The wheels go into a fresh environment. The commands then run in a folder that has packages
`engine` and `service` of its own, as a user's project may.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parent.parent
SECONDS_MAX = 600
"""For one command; a build may fetch its backend, an installation the dependencies."""
Command: TypeAlias = Sequence[str | Path]

COMMAND_LINE_ONLY = ("rich", "typer")

SAMPLE = """
from milepost.sample import dataset

print(len(list(dataset.panel())) > 0)
"""
"""What the extra `sample` is for: the households of the sample data."""

ROWS = "user_id,name,time\nbob,buy,2026-01-01T00:00:00Z\n"
"""A file for the extra `import`, on both sides: the client reads it, the service takes Arrow streams."""

FIRST_CALLS = """
import sys
from datetime import UTC, datetime

from milepost import Client, make_event
from milepost.criteria import event

with Client(sys.argv[1], account="acme") as client:
    client.ensure_account()
    web = client.ensure_input("shop", "web")
    client.ingest_events([make_event("ann", "buy", datetime.now(UTC))], input=web.name)
    client.ensure_journey("buyers", display_name="Buyers")
    client.ensure_milestone("buyers", "bought", criteria=event("buy").happened())
    print(client.estimate("buyers/bought").size.users)
"""


def build(destination: Path) -> tuple[Path, Path]:
    """Builds archives and wheels. Returns the wheels of the client and of the server."""
    for project in (ROOT / "clients" / "python", ROOT):
        run([sys.executable, "-m", "build", "--outdir", destination, project])
    [client] = destination.glob("milepost-*.whl")
    [server] = destination.glob("milepost_server-*.whl")
    return client, server


def try_with_dependencies_of_this_environment(wheels: tuple[Path, Path], scratch: Path) -> None:
    """Installs the wheels alone. A path file lends the packages of this environment.

    It does not lend editable ones: Python reads no path files in a directory that a path file names.
    """
    python = _environment(sys.executable, scratch / "environment", "--without-pip")
    packages = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", *wheels])
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    _use(python, scratch)


def try_from_the_index(interpreter: str, wheels: tuple[Path, Path], scratch: Path) -> None:
    """Installs the client alone and uses it as a library, then adds the server and the command line."""
    python = _environment(interpreter, scratch / "environment")
    client, server = wheels
    install: Command = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    install = (*install, "-c", ROOT / "constraints.txt")
    run([*install, client])
    program = (
        "import importlib.util, milepost.criteria, milepost.journeys; from milepost import Client\n"
        f"print([name for name in {COMMAND_LINE_ONLY} if importlib.util.find_spec(name)])"
    )
    _expect(run([python, "-c", program]), "[]\n", "packages of the command line that the client brought")
    run([*install, f"{client}[cli]", server])
    lacking = subprocess.run([python, "-c", SAMPLE], capture_output=True, text=True, timeout=SECONDS_MAX)
    if lacking.returncode == 0:
        raise SystemExit("the sample data are there without the extra `sample`")
    run([*install, f"{client}[cli,import,sample]", f"{server}[import]"])
    _use(python, scratch)


def _environment(interpreter: str | Path, directory: Path, *options: str) -> Path:
    run([interpreter, "-m", "venv", *options, directory])
    return directory / "bin" / "python"


def _use(python: Path, scratch: Path) -> None:
    """Starts the service in a folder with packages of its own and asks it."""
    folder = scratch / "project"
    for package in ("engine", "service"):
        (folder / package).mkdir(parents=True)
        for module in ("__init__.py", "__main__.py"):
            (folder / package / module).write_text("raise SystemExit('the wrong package ran')\n")
    milepost, server = python.with_name("milepost"), python.with_name("milepost-server")
    helps: list[Command] = [(milepost, "--help"), (milepost, "serve", "--help"), (server, "--help")]
    for command in helps:
        assert "usage" in run(command, folder).lower(), f"{command} shows no help"
    services: list[Command] = [(milepost, "serve"), (server,)]
    for number, command in enumerate(services):
        flags: Command = ["--data-dir", scratch / f"store-{number}", "--port", "0", "--log-level", "warning"]
        with subprocess.Popen([*command, *flags], cwd=folder, stdout=subprocess.PIPE, text=True) as service:
            try:
                assert service.stdout is not None
                ready = service.stdout.readline().strip()
                assert ready.startswith("ready address="), f"{command} did not start: {ready!r}"
                target = ready.removeprefix("ready address=")
                _expect(run([python, "-P", "-c", FIRST_CALLS, target], folder), "1\n", "users who bought")
                listed = run([milepost, "journey", "list", "--account", "acme", "--target", target], folder)
                assert "buyers" in listed, listed
                _use_extras(python, folder, target)
            finally:
                service.terminate()
        assert service.returncode == 0, f"{command} ended with status {service.returncode}"
    _expect(str(list(folder.rglob("*.pyc"))), "[]", "compiled files of the folder's own packages")


def _use_extras(python: Path, folder: Path, target: str) -> None:
    """Imports a file, and reads the sample data."""
    (folder / "rows.csv").write_text(ROWS, encoding="utf-8")
    options = ("--input", "shop/web", "--account", "acme", "--target", target, "--from-start", "--force")
    imported = run([python.with_name("milepost"), "import", "rows.csv", *options], folder)
    assert "1 event taken" in imported, imported
    _expect(run([python, "-P", "-c", SAMPLE], folder), "True\n", "households of the sample")


def _expect(found: str, expected: str, what: str) -> None:
    if found != expected:
        raise SystemExit(f"{what}: expected {expected!r}, found {found!r}")


def run(command: Command, directory: Path | None = None) -> str:
    """Runs a command and returns its output. Raises SystemExit with what it wrote when it fails."""
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=SECONDS_MAX)
    except OSError as error:
        raise SystemExit(f"cannot run {command[0]}: {error}") from error
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def version(interpreter: str | Path) -> str:
    """The interpreter's version, such as `3.12.1`."""
    return run([interpreter, "-c", "import platform; print(platform.python_version())"]).strip()


def main() -> int:
    """Builds, and tries the wheels with each interpreter."""
    parser = argparse.ArgumentParser(description="Build both distributions and use what was built.")
    parser.add_argument("python", nargs="*", help="interpreters to try (default: this environment's)")
    interpreters: list[str] = parser.parse_args().python
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        wheels = build(scratch / "built")
        if not interpreters:
            (scratch / "short").mkdir()
            try_with_dependencies_of_this_environment(wheels, scratch / "short")
            print(f"Python {version(sys.executable)}: built, installed and used")
        for number, interpreter in enumerate(interpreters):
            (scratch / str(number)).mkdir()
            try_from_the_index(interpreter, wheels, scratch / str(number))
            print(f"Python {version(interpreter)}: built, installed from the index and used", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
