"""`import milepost` loads what is used, and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import milepost

CLIENT = Path(milepost.__file__).parent
WITHOUT_THE_EXTRA = "import sys\nsys.modules.update(rich=None, typer=None)\n"
"""What an environment is like where the client was installed without the extra `cli`."""


@pytest.mark.parametrize("name", milepost.__all__)
def test_every_public_name_is_importable(name: str) -> None:
    assert getattr(milepost, name) is not None


def test_every_public_name_is_listed_before_it_is_used() -> None:
    code = "import milepost; print(set(milepost.__all__) - set(dir(milepost)))"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == "set()"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clients'"):
        milepost.Clients  # type: ignore[attr-defined]  # noqa: B018


def test_service_does_not_load_the_client() -> None:
    """Importing it would take a tenth of the time of a start."""
    code = "import sys, service.application; print('milepost.client' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"


def test_the_library_works_without_the_packages_of_the_command_line() -> None:
    modules = [
        ".".join(("milepost", *path.relative_to(CLIENT).with_suffix("").parts)).removesuffix(".__init__")
        for path in sorted(CLIENT.rglob("*.py"))
        if path.relative_to(CLIENT).parts[0] != "cli"
    ]
    assert "milepost.journeys.document" in modules
    code = f"{WITHOUT_THE_EXTRA}import importlib\nfor name in {modules}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_without_its_packages_names_the_extra() -> None:
    code = f"{WITHOUT_THE_EXTRA}from milepost.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "milepost: the command line is not installed: pip install 'milepost[cli]'\n"


def test_the_client_s_archive_has_the_license_itself() -> None:
    """A link out of its folder would break the archive: extracting it is refused."""
    ours = CLIENT.parent / "LICENSE"
    assert not ours.is_symlink()
    assert ours.read_bytes() == (CLIENT.parents[2] / "LICENSE").read_bytes()
