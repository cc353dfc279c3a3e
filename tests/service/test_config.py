"""Settings come from flags, then variables, then defaults, and each can say what it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from engine.backends import registry
from engine.limits import Limits
from service.config import Config, ConfigError, fields, flag_of, load, variable_of


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


def test_the_embedded_backend_takes_every_store_setting() -> None:
    assert set(Config().store_settings) <= set(registry.registration("local").settings)


def test_other_variables_are_none_of_ours() -> None:
    assert load([], {"PORT": "1", "MILEPOST_PORTS": "x"}) == Config()


def test_limits_reach_the_engine() -> None:
    config = load(["--batch-events-max", "5", "--string-bytes-max", "64"], {})
    assert config.limits == Limits(batch_events_max=5, string_bytes_max=64)


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--port", "http"], {}, "--port must be a number, got 'http'"),
        (["--port", "65536"], {}, "--port must be between 0 and 65535, got 65536"),
        ([], {"MILEPOST_PORT": "-1"}, "MILEPOST_PORT must be between 0 and 65535, got -1"),
        (["--worker-threads", "0"], {}, "--worker-threads must be at least 1, got 0"),
        (["--stop-grace-s", "nan"], {}, "--stop-grace-s must be at least 0, got nan"),
        (["--log-format", "xml"], {}, "--log-format must be one of json, console, got 'xml'"),
        ([], {"MILEPOST_DATA_DIR": ""}, "MILEPOST_DATA_DIR must not be empty"),
        (["--groups", "3"], {}, "--groups must be a power of two, got 3"),
        (["--store", "data"], {}, "--store: must be BACKEND:LOCATION, such as local:data; got 'data'"),
        (
            [],
            {"MILEPOST_STORE": "nothing:x"},
            "MILEPOST_STORE: unknown backend 'nothing'; available: local",
        ),
        (
            ["--store", "local:a", "--data-dir", "b"],
            {},
            "--store and --data-dir both name the store: give one",
        ),
        (["--batch-bytes-max", "99999999"], {}, "--batch-bytes-max must be between 1 and"),
    ],
)
def test_what_cannot_be_used_is_named(
    arguments: list[str], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(arguments, environment)
    assert str(refusal.value).startswith(message)


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


def test_every_setting_can_be_given() -> None:
    assert [field.name for field in fields()] == [field.name for field in dataclasses.fields(Config)]
