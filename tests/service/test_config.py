"""Settings come from flags, then variables, then defaults, with help and validation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from engine.backends import registry
from engine.backends.base import Store
from engine.backends.local.settings import LocalSettings
from engine.backends.registry import Registration
from engine.backends.settings import Setting, declared
from engine.clock import Stamp
from engine.limits import Limits
from milepost.cli.app import app
from service.command_line import flag_of, variable_of
from service.config import Config, ConfigError, fields, given_settings, load, unknown_variables
from tests.cli_runner import CliRunner


def test_defaults() -> None:
    config = load([], {})
    assert config == Config()
    assert (config.host, config.port, config.data_dir) == ("127.0.0.1", 7443, Path("data"))
    assert config.limits == Limits()
    assert config.outputs == Path("data/outputs")


def test_a_flag_wins_over_a_variable() -> None:
    environment = {"MILEPOST_PORT": "9000", "MILEPOST_DATA_DIR": "/var/lib/milepost"}
    config = load(["--port", "0"], environment)
    assert (config.port, config.data_dir) == (0, Path("/var/lib/milepost"))
    assert config.outputs == Path("/var/lib/milepost/outputs")


@pytest.mark.parametrize(
    ("arguments", "environment", "url"),
    [
        ([], {}, "local:data"),
        (["--data-dir", "d"], {}, "local:d"),
        (["--store", "local:s"], {}, "local:s"),
        ([], {"MILEPOST_STORE": "local:s"}, "local:s"),
        (["--data-dir", "d"], {"MILEPOST_STORE": "local:s"}, "local:d"),
        (["--store", "local:s"], {"MILEPOST_DATA_DIR": "d"}, "local:s"),
    ],
)
def test_a_store_is_named_by_url_or_directory(
    arguments: list[str], environment: dict[str, str], url: str
) -> None:
    config = load(arguments, environment)
    assert config.store_url == url
    assert config.backups == Path(url.removeprefix("local:")) / "backups"


def test_settings_of_the_store_go_to_its_backend() -> None:
    config = load(["--groups", "4", "--port", "0"], {"MILEPOST_CHECKPOINT_S": "0.5"})
    assert config.store_settings == {"groups": 4, "checkpoint_s": 0.5}


class KettleSettings(msgspec.Struct, frozen=True):
    spouts: Annotated[int, Setting("Spouts of a new kettle.", 1)] = 2
    lids: int = 1


def open_kettle(location: str, settings: Mapping[str, Any], clock: Callable[[], Stamp]) -> Store:
    raise NotImplementedError


@pytest.fixture
def _kettle(monkeypatch: pytest.MonkeyPatch) -> None:
    kettle = Registration(open=open_kettle, settings=KettleSettings)
    local = registry.registration("local")
    monkeypatch.setattr(registry, "registration", {"kettle": kettle, "local": local}.__getitem__)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--log-fromat", "json"], "--log-fromat is no flag; did you mean --log-format?"),
        (["--log-fromat=json"], "--log-fromat is no flag; did you mean --log-format?"),
        (["--dta-dir", "x", "--port", "1"], "--dta-dir is no flag; did you mean --data-dir?"),
        (["--hlep"], "--hlep is no flag; did you mean --help?"),
        (["--zzzz"], "--zzzz is no flag;"),
        (["stray"], "stray is no flag or value of one;"),
        (["--port"], "argument --port: expected one argument;"),
    ],
)
def test_a_slip_on_the_command_line_takes_one_line(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        load(given, {})
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"milepost-server: {said} --help lists the flags\n"


@pytest.mark.usefixtures("_kettle")
def test_another_backend_brings_its_own_settings(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--store", "kettle:k", "--spouts", "3"]
    config = load(given, {"MILEPOST_GROUPS": "3"})
    assert (config.store_url, config.store_settings) == ("kettle:k", {"spouts": 3})
    assert load(["--spouts", "3"], {"MILEPOST_STORE": "kettle:k"}) == config
    for refused in (["--groups", "4"], ["--lids", "2"], ["--help"]):
        with pytest.raises(SystemExit):
            load([*given, *refused], {})
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "milepost-server: --groups is no flag; did you mean --spouts? --help lists the flags",
        "milepost-server: --lids is no flag; --help lists the flags",
    ]
    assert "Spouts of a new kettle. (default: 2)" in " ".join(out.split())
    assert "--groups" not in out
    with pytest.raises(ConfigError, match="--spouts must be at least 1, got 0"):
        load(["--store", "kettle:k", "--spouts", "0"], {})


def test_foreign_variables_are_ignored() -> None:
    assert load([], {"PORT": "1", "MILEPOST_PORTS": "x"}) == Config()


def test_limits_reach_the_engine() -> None:
    config = load(["--batch-events-max", "5", "--string-bytes-max", "64"], {})
    assert config.limits == Limits(batch_events_max=5, string_bytes_max=64)


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--port", "http"], {}, "--port must be a number, got 'http'"),
        (["--port", "65536"], {}, "--port must be at most 65535, got 65536"),
        ([], {"MILEPOST_PORT": "-1"}, "MILEPOST_PORT must be at least 0, got -1"),
        (["--worker-threads", "0"], {}, "--worker-threads must be at least 1, got 0"),
        (["--stop-grace-s", "nan"], {}, "--stop-grace-s must be at least 0, got nan"),
        (["--log-format", "xml"], {}, "--log-format must be one of json, console, got 'xml'"),
        ([], {"MILEPOST_DATA_DIR": ""}, "MILEPOST_DATA_DIR must not be empty"),
        (["--groups", "3"], {}, "--groups must be a power of two, got 3"),
        (["--store", "data"], {}, "--store: must be BACKEND:LOCATION, such as local:data; got 'data'"),
        (
            [],
            {"MILEPOST_STORE": "nothing:x"},
            "MILEPOST_STORE: unknown backend 'nothing'; available: clickhouse, local",
        ),
        (
            ["--store", "local:a", "--data-dir", "b"],
            {},
            "--store and --data-dir both name the store; set only one",
        ),
        (["--map-bytes", str(2**62)], {}, "--map-bytes must be at most 35184372088832, got"),
        (["--map-bytes", "1.5B"], {}, "--map-bytes must be a whole number of bytes, got '1.5B'"),
        (["--map-bytes", "256g"], {}, "--map-bytes must be a number of bytes, or a size such as 64MiB"),
        (["--stop-grace-s", "inf"], {}, "--stop-grace-s must be at most 1000000000, got inf"),
        (
            [],
            {"MILEPOST_CHECKPOINT_S": "soon"},
            "MILEPOST_CHECKPOINT_S must be a number of seconds, or a duration such as 90s, 12h or 1d12h,",
        ),
        (
            ["--changes-days", "36h"],
            {},
            "--changes-days must be a whole number of days, got '36h'",
        ),
        (["--config-file", "/nowhere.toml"], {}, "/nowhere.toml cannot be read: No such file or directory"),
        (
            ["--output-networks", "10.0.0.0/8,10.1.2.3/8"],
            {},
            "--output-networks must be networks: 10.1.2.3/8 has host bits set",
        ),
        (["--batch-bytes-max", "99999999"], {}, "--batch-bytes-max must be at most 16777216, got 99999999"),
    ],
)
def test_invalid_settings_are_named(arguments: list[str], environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(arguments, environment)
    assert str(refusal.value).startswith(message)


def test_version_is_that_of_the_installed_service(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(["--version"], {})
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"milepost-server {metadata.version('milepost-server')}\n"


def test_help_names_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load(["--help"], {})
    assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for field in fields():
        assert flag_of(field.name) in shown
        if field.default is not None:
            assert f"(default: {field.default})" in shown
    assert variable_of("data_dir") in shown


def test_an_unknown_flag_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load(["--prot", "1"], {})
    assert end.value.code == 2
    assert "--prot" in capsys.readouterr().err


def test_every_setting_can_be_set() -> None:
    names = [field.name for field in fields()]
    of_the_store = [field.name for field in declared(LocalSettings)]
    assert len(names) == len(set(names))
    assert set(of_the_store) < set(names)
    own = [name for name in names if name not in of_the_store]
    assert own == [name for name in Config.__struct_fields__ if name != "store_settings"]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("map_bytes", "256GiB", 256 << 30),
        ("map_bytes", "1.5 GiB", 3 << 29),
        ("map_bytes", "2MB", 2_000_000),
        ("map_bytes", "2097152", 2 << 20),
        ("checkpoint_s", "90s", 90.0),
        ("checkpoint_s", "1h30m", 5_400.0),
        ("checkpoint_s", "250ms", 0.25),
        ("checkpoint_s", "0.25", 0.25),
        ("refresh_interval_ms", "1.5s", 1_500),
        ("refresh_interval_ms", "50", 50),
        ("changes_days", "2w", 14),
        ("call_s_max", "2m", 120.0),
        ("batch_bytes_max", "4MiB", 4 << 20),
    ],
)
def test_sizes_and_durations_have_units(name: str, text: str, value: float, tmp_path: Path) -> None:
    file = tmp_path / "milepost.toml"
    file.write_text(f'{name} = "{text}"\n')
    for config in (
        load([flag_of(name), text], {}),
        load([], {variable_of(name): text}),
        load(["--config-file", str(file)], {}),
    ):
        assert config.store_settings.get(name, getattr(config, name, None)) == value


def test_every_number_is_bounded_and_its_bounds_can_be_set() -> None:
    for field in fields():
        if field.kind not in (int, float):
            continue
        assert field.setting.most < math.inf, field.name
        for value in (field.setting.least, field.setting.most):
            if math.isfinite(value):
                load([f"{flag_of(field.name)}={field.kind(value)}"], {})
        for beyond in ("1e999", "-1e999", "nan", "9" * 40, "9" * 17 + "TiB", "9" * 12 + "w"):
            with pytest.raises(ConfigError, match=flag_of(field.name)):
                load([f"{flag_of(field.name)}={beyond}"], {})


FILE = """
# Comments are allowed.
data_dir = "/srv/milepost"
port = 9001
checkpoint_s = 2.5
groups = 4
log_format = "json"
"""


def test_flags_win_over_variables_and_variables_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "milepost.toml"
    file.write_text(FILE)
    config = load([], {"MILEPOST_CONFIG_FILE": str(file)})
    assert (config.directory, config.port, config.log_format) == (Path("/srv/milepost"), 9001, "json")
    assert config.store_settings == {"groups": 4, "checkpoint_s": 2.5}
    config = load(
        ["--config-file", str(file), "--port", "9003"],
        {"MILEPOST_PORT": "9002", "MILEPOST_LOG_FORMAT": "console", "MILEPOST_STORE": "local:s"},
    )
    assert (config.port, config.log_format, config.store_url) == (9003, "console", "local:s")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("port = ", "is no TOML: Invalid value (at end of document)"),
        ('data_dri = "x"', ": data_dri is no setting; did you mean data_dir?"),
        ('config_file = "x"', ": config_file is no setting"),
        ("[port]\nx = 1", ": port must be a text, a number, true or false, got a table"),
        ("port = [1]", ": port must be a text, a number, true or false, got list"),
        ("port = 70000", "port in FILE must be at most 65535, got 70000"),
        ('store = "local:a"\ndata_dir = "b"', "store in FILE and data_dir in FILE both name the store"),
        ('store = "nothing:x"', "store in FILE: unknown backend 'nothing'; available: clickhouse, local"),
    ],
)
def test_faults_of_the_file_name_it(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "milepost.toml"
    file.write_text(content)
    with pytest.raises(ConfigError) as refusal:
        load(["--config-file", str(file)], {})
    assert message.replace("FILE", str(file)) in str(refusal.value)
    assert str(file) in str(refusal.value)


def test_a_file_that_is_not_utf_8_or_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "milepost.toml"
    for content, message in ((b"\xff", "is no TOML"), (b"#" * (2 << 20), "has more than 1,048,576 bytes")):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            load(["--config-file", str(file)], {})


@pytest.mark.usefixtures("_kettle")
def test_a_file_names_another_backend_and_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "milepost.toml"
    file.write_text('store = "kettle:k"\nspouts = 3\n')
    config = load(["--config-file", str(file)], {})
    assert (config.store_url, config.store_settings) == ("kettle:k", {"spouts": 3})


def test_unknown_variables_have_the_nearest_setting() -> None:
    environment = {
        "MILEPOST_DATADIR": "x",
        "MILEPOST_SERVICE_HOST": "10.0.0.1",
        "MILEPOST_PORT": "1",
        "MILEPOST_ACCOUNT": "acme",
        "PORT": "1",
    }
    found = unknown_variables(environment, "local")
    assert found.keys() == {"MILEPOST_DATADIR", "MILEPOST_SERVICE_HOST"}
    assert found["MILEPOST_DATADIR"] == "MILEPOST_DATA_DIR"


def test_variables_of_the_command_line_are_known() -> None:
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["account", "list", "--help"]).output
    variables = set(re.findall(r"MILEPOST_[A-Z_]+", shown))
    assert len(variables) >= 2
    assert unknown_variables(dict.fromkeys(variables, "x"), "local") == {}


def test_the_log_shows_settings_that_differ_and_no_secret() -> None:
    config = load(["--groups", "4", "--port", "0", "--data-dir", "d"], {})
    assert given_settings(config) == {"data_dir": "d", "groups": "4", "port": "0"}
