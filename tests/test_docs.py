"""The documents agree with the code."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from datetime import timedelta
from pathlib import Path

import pytest

from engine import DEFAULT_LIMITS
from engine.audiences.checks import BATCH_PAIRS_MAX
from engine.audiences.sizes import COMPARED_MAX
from engine.backends.local.storage.dedupe import REQUEST_HORIZON_HOURS
from engine.backends.local.write.local_state import IMPORT_CHUNK_USERS
from engine.checks.rows import EVENT_AHEAD_MAX
from engine.limits import (
    ACCOUNTS_MAX,
    AUDIENCE_LEVELS_EVALUATED_MAX,
    AUDIENCE_LEVELS_MAX,
    BATCH_COLUMNS_MAX,
    CONSENT_VALUES_MAX,
    DEFAULT_QUOTAS,
    FIELD_MASK_PATHS_MAX,
    IMPORT_COLUMNS_MAX,
    JOURNEY_BYTES_MAX,
    JOURNEY_INPUTS_MAX,
    JOURNEY_LEVELS_MAX,
    JOURNEY_MILESTONES_MAX,
    JOURNEY_VERSION_BYTES_MAX,
    JOURNEY_VERSIONS_MAX,
    LIST_LENGTH_MAX,
    MESSAGE_ELEMENTS_MAX,
    QUOTA_FIELDS,
    UPDATE_CONSENTS_MAX,
    UPDATE_IDENTITIES_MAX,
    USER_ALIASES_MAX,
)
from engine.resources.connections import OPTED_IN_NAMES_MAX
from engine.resources.paging import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX
from engine.values import MICROS_PER_HOUR
from milepost import journeys
from milepost.cli.app import app
from milepost.cli.service_process import ServiceProcess
from milepost.client import DEFAULT_TARGET
from milepost.importing import ndjson, progress
from milepost.importing.source import SEGMENT_ROWS
from service.command_line import flag_of, variable_of
from service.config import Config, fields, given_settings, load
from service.convert.criteria import criterion_of
from service.limits import (
    IMPORT_BATCH_ROWS,
    IMPORT_REFUSED_ROWS_MAX,
    IMPORT_REQUEST_ID_BYTES_MAX,
    MESSAGE_S_MAX,
    OUTPUT_TEST_S_MAX,
    OUTPUT_TESTS_MAX,
    RECEIVE_BYTES_MAX,
)
from service.setting_values import SIZES, choices_of
from tests.cli_runner import CliRunner

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
IMPORT = (ROOT / "docs" / "import.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TESTS = (ROOT / "docs" / "tests.md").read_text(encoding="utf-8")
CLIENTS = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
JOURNEYS = (ROOT / "docs" / "journeys.md").read_text(encoding="utf-8")

TOP_LEVEL = ("engine", "service", "clients", "protos", "tests", "tools", "docs")
DECISIONS = sorted(path for path in (ROOT / "docs" / "decisions").glob("0*.md"))
PAGES_WITH_PATHS = [
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/tests.md",
    *(str(path.relative_to(ROOT)) for path in DECISIONS),
]


def between(text: str, start: str) -> str:
    """The part from the comment that starts with `start` to the closing one."""
    _, _, after = text.partition(f"<!-- {start}")
    return after.partition("<!-- end -->")[0]


def blocks_of(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def python_blocks(text: str) -> list[str]:
    return blocks_of("python", text)


def test_operations_lists_every_setting_with_its_default_and_meaning() -> None:
    rows = re.findall(
        r"^\| `(--[a-z-]+)` \| (.*?) \| (.*) \|$", between(OPERATIONS, "settings"), re.MULTILINE
    )
    listed = {flag: (default, meaning) for flag, default, meaning in rows}
    assert len(listed) == len(rows)
    expected = {}
    for field in fields():
        default = "" if field.default is None else f"`{field.default}`"
        meaning = field.setting.description
        if choices_of(field):
            meaning += " One of " + ", ".join(f"`{choice}`" for choice in choices_of(field)) + "."
        expected[flag_of(field.name)] = (default, meaning)
    assert listed == expected


UNITS = {
    "_ms": "in milliseconds",
    "_s": "in seconds",
    "_bytes": "bytes",
    "_days": "Days",
    "_characters": "characters",
}


def test_a_setting_s_description_is_sentences_with_the_unit_of_its_name() -> None:
    for field in fields():
        description = field.setting.description
        assert description[0].isupper(), field.name
        assert description.endswith("."), field.name
        for suffix, unit in UNITS.items():
            if field.name.removesuffix("_max").endswith(suffix):
                assert unit in description, field.name


def test_operations_names_the_variable_of_a_flag() -> None:
    assert f"`{flag_of('data_dir')}` and `{variable_of('data_dir')}` and `data_dir`" in OPERATIONS


def test_the_configuration_file_on_the_page_is_read_and_its_units_are_all(tmp_path: Path) -> None:
    [example] = blocks_of("toml", OPERATIONS)
    file = tmp_path / "milepost.toml"
    file.write_text(example, encoding="utf-8")
    config = load(["--config-file", str(file)], {})
    assert set(given_settings(config)) == {"config_file", "data_dir", "log_format"}
    assert config.store_settings == {"map_bytes": 256 << 30, "checkpoint_s": 30.0}
    [units] = re.findall(r"Sizes may have a unit \((.*?)\)", OPERATIONS, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", units)) == set(SIZES)


def test_the_client_s_default_address_is_the_service_s() -> None:
    assert f"localhost:{Config().port}" == DEFAULT_TARGET


PAGES = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))


def anchors_of(page: Path) -> set[str]:
    """The fragments that a page's headings can be linked by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_and_headings_exist(page: str) -> None:
    path = ROOT / page
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), f"{page} links to {link}"
        assert not anchor or anchor in anchors_of(target), f"{page} links to {link}"


def test_decisions_are_numbered_and_listed() -> None:
    titles = [path.read_text(encoding="utf-8").splitlines()[0] for path in DECISIONS]
    index = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(\d+)\. \[(.+)\]\((.+)\)$", index, re.MULTILINE)
    assert [f"# {number}. {title}" for number, title, _ in listed] == titles
    assert [file for _, _, file in listed] == [path.name for path in DECISIONS]
    assert [path.name[:4] for path in DECISIONS] == [f"{n:04}" for n in range(1, len(DECISIONS) + 1)]


def test_make_targets_in_contributing_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([a-z-]+)", contributing + TESTS + README))
    assert named != set()
    assert named <= targets


def test_readme_journey_prints_the_documented_output(tmp_path: Path) -> None:
    blocks = python_blocks(README)
    assert len(blocks) == 2
    printed = io.StringIO()
    with ServiceProcess(tmp_path / "store", flags=("--log-level", "warning")) as service:
        for block in blocks:
            code = block.replace(DEFAULT_TARGET, service.target)
            assert code != block
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue().splitlines() == ["keen 1", "buyers 1", "Remaining users 1", "True False", "1"]
    assert "It prints `keen 1`, `buyers 1`, `Remaining users 1` and `True False`." in README


def test_every_test_that_the_page_on_journeys_names_exists() -> None:
    rows = re.findall(r"^\| [^|]+ \| `([\w/]+\.py)::(\w+)` \|$", between(JOURNEYS, "tests"), re.MULTILINE)
    assert len(rows) == len(between(JOURNEYS, "tests").strip().splitlines()) - 3
    for file, name in rows:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file} has no test {name}"


def test_document_on_the_journeys_page_is_valid() -> None:
    [text] = blocks_of("yaml", JOURNEYS)
    document = journeys.loads(text)
    assert [milestone.id for milestone in document.walk()] == ["lapsed", "opened", "not-opened"]
    for milestone in document.walk():
        if milestone.criteria is not None:
            criterion_of(milestone.criteria)
    assert journeys.loads(journeys.dumps(document)) == document


@pytest.mark.parametrize(
    ("page", "group", "count"),
    [(JOURNEYS, "", 26), (OPERATIONS, "store", 17)],
    ids=["journeys", "operations"],
)
def test_commands_on_a_page_exist(page: str, group: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = [line.partition("#")[0].split() for block in blocks_of("sh", page) for line in block.splitlines()]
    commands = [words[1:] for words in lines if words[:1] == ["milepost"] and group in ("", words[1])]
    assert len(commands) == count
    for words in commands:
        name = words[:2] if words[0] in ("journey", "milestone", "audience", "store") else words[:1]
        shown = CliRunner().invoke(app, [*name, "--help"])
        assert shown.exit_code == 0, f"there is no command {name}"
        assert [word for word in words if word.startswith("--") and word not in shown.output] == []


def test_program_on_the_import_page_prints_the_documented_output(tmp_path: Path) -> None:
    [block] = python_blocks(IMPORT)
    printed = io.StringIO()
    service = ServiceProcess(tmp_path / "store", flags=("--log-level", "warning"))
    with service, contextlib.redirect_stdout(printed):
        exec(compile(block.replace(DEFAULT_TARGET, service.target), "docs/import.md", "exec"), {})
    assert printed.getvalue().splitlines() == ["2 1", "REQUIRED user_id [2]"]
    assert "It prints `2 1` and `REQUIRED user_id [2]`." in IMPORT


def test_programs_on_the_page_on_clients_print_the_documented_output(tmp_path: Path) -> None:
    """All blocks are one program; the block after each is what it prints."""
    blocks = re.findall(r"^```python\n(.*?)^```\n(?:\n^```\n(.*?)^```\n)?", CLIENTS, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(python_blocks(CLIENTS)) > 8
    names: dict[str, object] = {}
    with ServiceProcess(tmp_path / "store", flags=("--log-level", "warning")) as service:
        for block, expected in blocks:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block.replace(DEFAULT_TARGET, service.target), "docs/clients.md", "exec"), names)
            assert printed.getvalue() == expected


def test_every_option_of_an_import_is_on_the_page_on_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, ["import", "--help"]).output
    of_every_command = {"--help", "--api-key", "--target", "--tls", "--tls-ca", "--tls-cert", "--tls-key"}
    of_the_service = {flag_of(field.name) for field in fields()}
    named = set(re.findall(r"(--[a-z][a-z-]+)", IMPORT)) - of_the_service
    assert named == set(re.findall(r"(--[a-z][a-z-]+)", shown)) - of_every_command


def test_the_limits_on_the_page_on_imports() -> None:
    assert f"segments of up to {SEGMENT_ROWS:,} rows" in IMPORT
    assert f"{ndjson.SEGMENT_ROWS:,} of NDJSON" in IMPORT
    assert f"appends {IMPORT_BATCH_ROWS:,} rows at a time" in IMPORT
    assert timedelta(hours=REQUEST_HORIZON_HOURS) == progress.REMEMBERED


def names_in(path: Path) -> set[str]:
    """What a module defines at its top level."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("page", PAGES_WITH_PATHS)
def test_files_and_names_on_a_page_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(rf"`((?:{'|'.join(TOP_LEVEL)})/[\w./-]*)(?:::(\w+))?`", text)
    assert named != []
    for path, name in named:
        assert (ROOT / path).exists(), f"{page} names {path}"
        assert not name or name in names_in(ROOT / path), f"{page} names {name} in {path}"


def test_the_packages_on_the_page_on_architecture_are_those_of_the_engine_and_the_service() -> None:
    _, _, after = ARCHITECTURE.partition("```\n")
    drawn = after.partition("```")[0]
    for package in ("engine", "engine/backends/local", "service"):
        inside = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")} - {"backends"}
        assert [name for name in sorted(inside) if f"{name}/" not in drawn] == []


def test_glossary_is_sorted_and_unique() -> None:
    _, _, glossary = ARCHITECTURE.partition("## Glossary")
    terms = re.findall(r"^\| ([^|]+) \|", glossary.partition("\n## ")[0], re.MULTILINE)[1:]
    assert len(terms) > 30
    assert terms == sorted(set(terms), key=str.lower)


def test_renamed_settings_in_the_changelog_are_settings_now_and_were_not_kept() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(--[\w-]+)`, `(\w+)` \| `(--[\w-]+)`, `(\w+)` \|$", changelog, re.MULTILINE)
    settings = {flag_of(field.name): variable_of(field.name) for field in fields()}
    assert len(rows) == between(changelog, "renamed").count("\n| `")
    for flag_before, _, flag_now, variable_now in rows:
        assert flag_before not in settings
        assert settings[flag_now] == variable_now
    new = re.findall(r"`(--[\w-]+)`", changelog.partition("New settings: ")[2].partition("\n")[0])
    assert new != []
    assert set(new) <= set(settings)


def test_quotas_on_the_page_on_operations() -> None:
    _, _, after = OPERATIONS.partition("<!-- quotas:")
    listed = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", after.partition("<!-- end -->")[0], re.MULTILINE))
    assert listed == {name: f"{getattr(DEFAULT_QUOTAS, name):,}" for name in QUOTA_FIELDS}
    assert f"A store has at most {ACCOUNTS_MAX:,} accounts." in OPERATIONS


def test_fixed_limits_on_the_page_on_operations() -> None:
    _, _, after = OPERATIONS.partition("## Fixed limits")
    listed = dict(re.findall(r"^\| (.+?) \| (.+) \|$", after.partition("\n\n##")[0], re.MULTILINE)[1:])
    limits = {
        "events ahead of the server's clock": f"{EVENT_AHEAD_MAX // MICROS_PER_HOUR} h",
        "levels of nested criteria and conditions": DEFAULT_LIMITS.criteria_depth_max,
        "criteria, steps and conditions in one criterion": DEFAULT_LIMITS.criteria_nodes_max,
        "values in one `in`": DEFAULT_LIMITS.in_values_max,
        "values in all tests of one criterion together": DEFAULT_LIMITS.criteria_values_max,
        "bytes of one criterion as a message": DEFAULT_LIMITS.criteria_bytes_max,
        "bytes of a `glob` or a `matches`": DEFAULT_LIMITS.pattern_bytes_max,
        "wildcards of a `glob`": DEFAULT_LIMITS.glob_wildcards_max,
        "RE2 instructions that a `matches` compiles to": DEFAULT_LIMITS.expression_instructions_max,
        "Unicode classes, such as `\\pL`, of a `matches`": DEFAULT_LIMITS.expression_classes_max,
        "instructions of all patterns of one criterion together": DEFAULT_LIMITS.criteria_instructions_max,
        "instructions of all patterns of a call together": DEFAULT_LIMITS.call_instructions_max,
        "steps of a sequence": DEFAULT_LIMITS.sequence_steps_max,
        "milestones of a journey": JOURNEY_MILESTONES_MAX,
        "bytes of the milestones of a journey": JOURNEY_BYTES_MAX,
        "levels of milestones": JOURNEY_LEVELS_MAX,
        "levels of audiences that name audiences": (
            f"{AUDIENCE_LEVELS_MAX}; of those saved by earlier versions, "
            f"{AUDIENCE_LEVELS_EVALUATED_MAX} are evaluated"
        ),
        "past versions kept of a journey": (
            f"{JOURNEY_VERSIONS_MAX}, at most {JOURNEY_VERSION_BYTES_MAX // 2**20} MiB"
        ),
        "lists and maps of a request": f"{LIST_LENGTH_MAX:,} elements, where no other limit is named",
        "messages and texts in all lists and maps of a request": (
            f"{MESSAGE_ELEMENTS_MAX:,}, counted before the request is parsed"
        ),
        "paths of an `update_mask`": FIELD_MASK_PATHS_MAX,
        "`inputs` of a journey": JOURNEY_INPUTS_MAX,
        "`identities` and `attributes` of a connection": f"{OPTED_IN_NAMES_MAX} each",
        "different attributes in a batch of events": f"{BATCH_COLUMNS_MAX:,}, counted by kind of value",
        "aliases of a user": USER_ALIASES_MAX,
        "identities of a user update, and consents": (
            f"{UPDATE_IDENTITIES_MAX} each, unset ones included"
            if UPDATE_IDENTITIES_MAX == UPDATE_CONSENTS_MAX
            else ""
        ),
        "columns of an import, and those that its header names": IMPORT_COLUMNS_MAX,
        "`given_values` and `denied_values` of a consent column": f"{CONSENT_VALUES_MAX} each",
        "rows of an import appended at a time": (
            f"{IMPORT_BATCH_ROWS:,}; users are applied {IMPORT_CHUNK_USERS:,} at a time"
        ),
        "rejected rows listed by an import": f"{IMPORT_REFUSED_ROWS_MAX:,}; all are counted",
        "`request_id` of an import": f"{IMPORT_REQUEST_ID_BYTES_MAX} bytes",
        "`page_size`": f"{PAGE_SIZE_MAX:,}, default {PAGE_SIZE_DEFAULT}",
        "pairs of a BatchCheckMembership": BATCH_PAIRS_MAX,
        "audiences of a CompareAudiences": COMPARED_MAX,
        "TestOutput": f"{OUTPUT_TESTS_MAX} at a time, one of an account; {OUTPUT_TEST_S_MAX:.0f} s each",
        "time from the beginning of a call to its message": (
            f"{MESSAGE_S_MAX:g} s, or `--stream-idle-s` if that is shorter"
        ),
        "message on the wire": (
            f"{RECEIVE_BYTES_MAX // 2**20} MiB; below that, `--batch-bytes-max` answers with a reason"
        ),
    }
    assert listed == {
        what: f"{limit:,}" if isinstance(limit, int) else limit for what, limit in limits.items()
    }


def test_every_section_of_the_page_on_operations_has_tests() -> None:
    rows = re.findall(r"^\| ([^|]+) \| (.+) \|$", between(TESTS, "operations"), re.MULTILINE)[1:]
    sections = re.findall(r"^## (.+)$", OPERATIONS, re.MULTILINE)
    assert [section for section, _ in rows] == sections
    for section, tests in rows:
        paths = re.findall(r"`(tests/[\w/.]+)`", tests)
        assert paths or "`make bench`" in tests, section
        for path in paths:
            assert (ROOT / path).exists(), path


def test_what_to_watch_names_metrics_that_are_served() -> None:
    monitoring = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    served = set(re.findall(r"^\| `(\w+)` \|", between(monitoring, "metrics"), re.MULTILINE))
    watched = monitoring.partition("## What to watch")[2].partition("\n## ")[0]
    named = set(re.findall(r"`((?:milepost|grpc_server)_\w+)`", watched))
    assert len(named) > 10
    assert named <= served
