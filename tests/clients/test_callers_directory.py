"""No command runs a package of the caller's directory, even one that is called `service` or `engine`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from milepost import Client
from milepost.cli.service_process import ServiceProcess

SCRIPTS = Path(sys.executable).parent
FROM_THE_FOLDER = "a package of the caller's directory ran"
TIMEOUT_S = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with packages and modules that share names with Milepost's and with what it imports."""
    inside = tmp_path / "project"
    inside.mkdir()
    for package in ("service", "engine", "milepost", "lmdb"):
        (inside / package).mkdir()
        for module in ("__init__.py", "__main__.py"):
            (inside / package / module).write_text(f"raise SystemExit({FROM_THE_FOLDER!r})\n")
    (inside / "structlog.py").write_text(f"raise SystemExit({FROM_THE_FOLDER!r})\n")
    return inside


def flags(folder: Path) -> list[str]:
    return ["--data-dir", str(folder.parent / "store"), "--port", "0"]


@contextmanager
def serving(folder: Path, command: list[str]) -> Iterator[Client]:
    """A client of the service that `command` starts in `folder`."""
    with subprocess.Popen(
        [*command, *flags(folder)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            line = child.stdout.readline().strip()
            assert line.startswith("ready address="), child.communicate(timeout=TIMEOUT_S)
            with Client(line.removeprefix("ready address="), account="acme") as client:
                yield client
        finally:
            child.kill()
            child.communicate()


@pytest.mark.parametrize("command", [["milepost", "serve"], ["milepost-server"]], ids=" ".join)
def test_a_command_serves_from_a_folder_with_packages_of_its_own(folder: Path, command: list[str]) -> None:
    with serving(folder, [str(SCRIPTS / command[0]), *command[1:]]) as client:
        assert client.ensure_account().name == "accounts/acme"


def test_the_module_serves_from_a_folder_with_an_engine_of_its_own(folder: Path) -> None:
    # Python itself finds the module named on the command line; the service decides everything after that.
    for module in (folder / "service").iterdir():
        module.unlink()
    (folder / "service").rmdir()
    with serving(folder, [sys.executable, "-m", "service"]) as client:
        assert client.ensure_account().name == "accounts/acme"


def test_a_child_process_serves_from_a_folder_with_packages_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with (
        ServiceProcess(folder.parent / "store", flags=("--log-level", "warning")) as service,
        Client(service.target, account="acme") as client,
    ):
        assert client.ensure_account().name == "accounts/acme"


@pytest.mark.parametrize(
    "command",
    [[str(SCRIPTS / "milepost")], [sys.executable, "-P", "-c", "from milepost.cli import main; main()"]],
    ids=["script", "code"],
)
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--help"], 0, ""),
        (["store", "verify", "--data", "nothing"], 1, "milepost: there is no store in nothing\n"),
        (["journey", "list", "--target", "localhost:1"], 1, ""),
    ],
    ids=["help", "offline", "online"],
)
def test_a_command_runs_in_a_folder_with_packages_of_its_own(
    folder: Path, command: list[str], arguments: list[str], status: int, message: str
) -> None:
    done = subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert FROM_THE_FOLDER not in done.stdout + done.stderr
    assert done.returncode == status
    if message:
        assert done.stderr == message


def test_code_of_a_caller_s_own_finds_the_installed_service(folder: Path) -> None:
    """`python -c` looks in the caller's directory first. The command takes it off the path."""
    (folder / "milepost" / "__init__.py").unlink()
    (folder / "milepost" / "__main__.py").unlink()
    (folder / "milepost").rmdir()
    code = "from milepost.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "store", "verify", "--data", "nothing"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "milepost: there is no store in nothing\n")
