"""Generate the synchronous client from the asyncio one, or check that the committed one is fresh.

    python tools/generate_client.py            # rewrite clients/python/milepost/client
    python tools/generate_client.py --check    # compare only; exit 1 and name every file that differs

Both clients have the same methods. They are written once, in `milepost/aio`; unasync drops `async` and
`await` and replaces the names in `NAMES`. The two `__init__.py` are written by hand.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import tokenize_rt
from unasync import Rule, unasync_files

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "clients" / "python" / "milepost"
SOURCE = "aio"
GENERATED = "client"

NAMES = {
    "_channel_aio": "_channel",
    "aio": "client",
    "async_iterate": "iterate",
    "async_sleep": "sleep",
    "open_async_channel": "open_channel",
}
"""What is called otherwise in the synchronous client, beside the classes: those lose their `Async`."""
HEADER = "# Generated from milepost/{source}/{name}: edit that file, then run `make client`.\n"


def sources() -> list[Path]:
    """The modules that both clients are made of."""
    return sorted(path for path in (PACKAGE / SOURCE).glob("*.py") if path.name != "__init__.py")


def generate(destination: Path) -> dict[str, str]:
    """The text of every generated module by file name, made below `destination`."""
    scratch = destination / SOURCE
    scratch.mkdir()
    classes: dict[str, str] = {}
    for path in sources():
        tokens = tokenize_rt.src_to_tokens(path.read_text(encoding="utf-8"))
        classes |= {
            token.src: token.src.removeprefix("Async")
            for token in tokens
            if token.name == "NAME" and token.src.startswith("Async")
        }
        text = tokenize_rt.tokens_to_src(without_parentheses(tokens))
        (scratch / path.name).write_text(text, encoding="utf-8")
    rule = Rule(f"/{SOURCE}/", f"/{GENERATED}/", {**classes, **NAMES})
    unasync_files([str(scratch / path.name) for path in sources()], [rule])
    made = sorted((destination / GENERATED).glob("*.py"))
    ruff = Path(sysconfig.get_path("scripts")) / "ruff"
    configured = ("--config", str(ROOT / "pyproject.toml"), "--quiet")
    subprocess.run(
        [ruff, "check", "--select=I,UP028", "--fix", "--unsafe-fixes", *configured, *made], check=True
    )
    subprocess.run([ruff, "format", *configured, *made], check=True)
    return {
        path.name: HEADER.format(source=SOURCE, name=path.name) + path.read_text(encoding="utf-8")
        for path in made
    }


def without_parentheses(tokens: list[tokenize_rt.Token]) -> list[tokenize_rt.Token]:
    """The tokens with `(await call(...)).field` as `await call(...).field`, and so with `[`: without `await`
    the parentheses are not needed.
    """
    opened: list[int] = []
    dropped: set[int] = set()
    for place, token in enumerate(tokens):
        if token.src in ("(", "[", "{"):
            opened.append(place)
        elif token.src in (")", "]", "}"):
            start = opened.pop()
            if tokens[start + 1].src == "await" and tokens[place + 1].src in (".", "["):
                dropped |= {start, place}
    return [token for place, token in enumerate(tokens) if place not in dropped]


def committed() -> dict[str, str]:
    """The text of every committed module by file name."""
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in (PACKAGE / GENERATED).glob("*.py")
        if path.name != "__init__.py"
    }


def main(arguments: list[str] | None = None) -> int:
    """Generate or check; the exit status, 1 when the check finds a difference."""
    parser = argparse.ArgumentParser(description="Generate the synchronous client from the asyncio one.")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
    before = committed()
    differing = sorted(name for name in before.keys() | fresh.keys() if before.get(name) != fresh.get(name))
    if options.check:
        for name in differing:
            print(f"differs from milepost/{SOURCE}: milepost/{GENERATED}/{name}", file=sys.stderr)
        if differing:
            print(f"edit milepost/{SOURCE}, run `make client`, and commit both packages", file=sys.stderr)
        return 1 if differing else 0
    for name in before.keys() - fresh.keys():
        (PACKAGE / GENERATED / name).unlink()
    for name, text in fresh.items():
        (PACKAGE / GENERATED / name).write_text(text, encoding="utf-8")
    print(f"{len(fresh)} files in {PACKAGE / GENERATED}, {len(differing)} changed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
