"""The command: settings, one application, signals."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import structlog

from engine.backends import registry
from engine.errors import MilepostError
from service import logs, systemd, web
from service.application import Application
from service.auth.listening import CannotListen
from service.auth.tls import Certificates
from service.command_line import DISTRIBUTION
from service.config import Config, ConfigError, given_settings, load, unknown_variables
from service.directories import os_error_in_words
from service.interpreter import leave_out_of_collections, share_interpreter
from service.signals import RELOAD_SIGNAL, Signals
from service.telemetry.descriptors import raise_limit
from service.telemetry.traces import missing_for

EXIT_FAILED = 1
EXIT_USAGE = 2
KEEPS_NOTHING = "in memory: all data are gone when this process ends"

_logger = structlog.get_logger("milepost.service")


def run(argv: Sequence[str] | None, signals: Signals) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit status.

    Once serving it prints `ready address=HOST:PORT` on stdout, before it `http address=HOST:PORT` when it
    serves HTTP, and after it a line when it keeps nothing. Everything else goes to the log on stderr.
    """
    try:
        config = load(sys.argv[1:] if argv is None else argv, os.environ)
        _check_port_file(config.port_file)
        _check_traces(config)
        _check_http(config)
        _check_tls(config)
    except ConfigError as error:
        print(f"milepost: {error}", file=sys.stderr)
        return EXIT_USAGE
    logs.configure(config.log_format, config.log_level)
    _log_start(config)
    raise_limit()
    share_interpreter()
    try:
        _serve(config, signals)
    except (MilepostError, OSError) as error:
        refusal = os_error_in_words(error) if isinstance(error, OSError) else str(error)
        if config.log_format == "json":
            _logger.error("start failed", error=refusal)
        else:
            print(f"milepost: {refusal}", file=sys.stderr)
        return EXIT_FAILED
    except Exception:
        _logger.exception("start failed")
        return EXIT_FAILED
    _logger.info("stopped")
    return 0


def _serve(config: Config, signals: Signals) -> None:
    """Opens the store and serves it until a stop signal. One that arrives earlier ends the start."""
    registry.prepare_process(config.store_url)
    if signals.is_stop_requested():
        return
    application = Application(config)
    try:
        # A store that is being opened is opened completely, since that may take a replay or an upgrade.
        if not signals.is_stop_requested():
            application.start()
            leave_out_of_collections()
            _announce(application, config)
            _wait_for_stop(application, signals)
        _logger.info("stopping")
        systemd.stopping()
    finally:
        application.stop()


def _wait_for_stop(application: Application, signals: Signals) -> None:
    while signals.wait() is RELOAD_SIGNAL:
        systemd.reloading()
        application.reload()
        systemd.ready(_status(application))


def _check_port_file(port_file: Path | None) -> None:
    """Tries to write beside the port file, before the store is opened."""
    if port_file is None:
        return
    if port_file.is_dir():
        raise ConfigError(f"--port-file {port_file} cannot be written: {os.strerror(errno.EISDIR)}")
    try:
        unfinished = _unfinished(port_file)
        unfinished.touch()
        unfinished.unlink()
    except OSError as error:
        raise ConfigError(f"--port-file {port_file} cannot be written: {error.strerror}") from None


def _check_traces(config: Config) -> None:
    missing = missing_for(config.traces)
    if missing:
        raise ConfigError(f"--traces {config.traces}: {missing}")


def _check_http(config: Config) -> None:
    missing = web.missing()
    if config.http_port is not None and missing:
        raise ConfigError(f"--http-port {config.http_port}: {missing}")


def _check_tls(config: Config) -> None:
    if config.tls is not None:
        try:
            Certificates(config.tls)
        except CannotListen as error:
            raise ConfigError(str(error)) from None


def _unfinished(port_file: Path) -> Path:
    return port_file.with_name(port_file.name + ".unfinished")


def _log_start(config: Config) -> None:
    _logger.info(
        "starting",
        version=metadata.version(DISTRIBUTION),
        python=sys.version.split()[0],
        pid=os.getpid(),
        store=registry.shown_url(config.store_url),
        settings=given_settings(config),
    )
    backend, _ = registry.split_url(config.store_url)
    if config.keeps_nothing:
        _logger.warning("the store is in memory: all data are gone when this process ends")
    for name, nearest in unknown_variables(os.environ, backend).items():
        _logger.warning("unknown variable ignored", variable=name, did_you_mean=nearest or None)


def _announce(application: Application, config: Config) -> None:
    port_file = config.port_file
    if port_file is not None:
        # Renamed into place: a reader never sees a partial number.
        unfinished = _unfinished(port_file)
        unfinished.write_text(f"{application.port}\n", encoding="ascii")
        unfinished.replace(port_file)
    if application.http_address is not None:
        print(f"http address={application.http_address}", flush=True)
    print(f"ready address={application.address}", flush=True)
    if config.keeps_nothing:
        print(KEEPS_NOTHING, flush=True)
    others = {"http": application.http_address, "metrics": application.metrics_address}
    served = {name: address for name, address in others.items() if address is not None}
    _logger.info("ready", address=application.address, **served)
    systemd.ready(_status(application))


def _status(application: Application) -> str:
    return f"serving on {application.address}"
