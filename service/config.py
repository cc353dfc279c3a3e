"""Settings: flags, then `MILEPOST_*` variables, then the configuration file, then defaults.

Every field of `Config`, and every setting of the store's backend, is a flag (`data_dir` → `--data-dir`), a
variable (`MILEPOST_DATA_DIR`) and a key of the configuration file (`data_dir`). `--help` lists them with
defaults and units.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from engine import limits as data
from engine.audiences.live import REFRESH_INTERVAL_MS
from engine.backends import registry
from engine.backends.settings import Declared, Setting, declared
from engine.clock import FOLLOW_AFTER_MICROS, SETTLE_AFTER_MICROS
from engine.errors import InvalidInput, Unsupported
from engine.limits import Limits
from engine.resources.secret_keys import SecretKeys
from engine.retention import RETENTION_INTERVAL_S
from engine.values import MICROS_PER_SECOND
from service import config_file
from service import limits as transport
from service.access_log import AccessLog
from service.auth.tls import TlsFiles
from service.command_line import VARIABLE_PREFIX, early_value, flag_of, parser_of, variable_of
from service.delivery.guard import Guard, networks_of
from service.delivery.surroundings import Surroundings
from service.logs import LogFormat, LogLevel
from service.readers.count import readers_for
from service.setting_values import InvalidValue, value_of
from service.telemetry.traces import Traces

ClockTrust = Literal["check", "trust"]
"""Whether the service compares the clock with the latest time in the store when it starts."""

HOST_DEFAULT = "127.0.0.1"
PORT_DEFAULT = 7443
PORT_MAX = 65_535
PATH_DEFAULT = Path("data")
SECRET_KEY_FILE = "secrets.key"
CLIENT_VARIABLES = frozenset(
    VARIABLE_PREFIX + name
    for name in ("TARGET", "ACCOUNT", "API_KEY", "TLS", "TLS_CA", "TLS_CERT", "TLS_KEY")
)
"""Variables of the command line, which may be set where the service starts."""
SECRET_ENDINGS = ("_key", "_secret", "_token", "_password")
"""Settings whose values are not logged; a file that holds one is named `…_file`."""


class ConfigError(ValueError):
    """Invalid setting. The message names it and the reason."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. Sizes are in bytes; a time's unit is the end of its name."""

    config_file: Annotated[
        Path | None, Setting("TOML file with settings. Flags and variables win over it.")
    ] = None
    data_dir: Annotated[Path, Setting("Store directory. Created if missing.")] = PATH_DEFAULT
    memory: Annotated[
        bool,
        Setting("Keep nothing: a new store in memory, which ends with the service. For tests and trials."),
    ] = False
    store: Annotated[
        str | None, Setting("Store URL, BACKEND:LOCATION (default: local: and the data directory).")
    ] = None
    host: Annotated[str, Setting("Address to listen on.")] = HOST_DEFAULT
    port: Annotated[
        int, Setting("Port to listen on. 0 picks a free port and prints it when ready.", 0, PORT_MAX)
    ] = PORT_DEFAULT
    insecure_listen: Annotated[
        bool, Setting("Listen on an address that other machines reach although no API key is needed.")
    ] = False
    tls_cert_file: Annotated[
        Path | None,
        Setting("PEM file with the server's certificate. With it and the key, only TLS is served."),
    ] = None
    tls_key_file: Annotated[Path | None, Setting("PEM file with the key of the certificate.")] = None
    tls_client_ca_file: Annotated[
        Path | None, Setting("PEM file with CAs. Callers then need a certificate of one of them.")
    ] = None
    http_port: Annotated[
        int | None,
        Setting(
            "Port for the same methods over HTTP: Connect with JSON, and gRPC-Web (default: none). 0 picks a"
            " free port and logs it when ready.",
            0,
            PORT_MAX,
        ),
    ] = None
    http_host: Annotated[str, Setting("Address that HTTP is served on.")] = HOST_DEFAULT
    http_cors_origins: Annotated[
        str | None,
        Setting("Origins whose pages may call over HTTP, separated by commas. * = all (default: none)."),
    ] = None
    port_file: Annotated[Path | None, Setting("File to write the port to once the service is ready.")] = None
    output_dir: Annotated[
        Path | None,
        Setting("Directory for file outputs (default: outputs in the data directory)."),
    ] = None
    backup_dir: Annotated[
        Path | None,
        Setting("Directory for backups (default: backups in the data directory)."),
    ] = None
    secret_key_file: Annotated[
        Path | None,
        Setting("File with the keys of the outputs' secrets (default: secrets.key in the data directory)."),
    ] = None
    store_settings: Mapping[str, Any] = {}
    """Settings of the store's backend, which declares them; those not given have its defaults."""
    refresh_interval_ms: Annotated[
        int, Setting("Interval between refreshes of activated audiences, in milliseconds.", 1)
    ] = REFRESH_INTERVAL_MS
    erased_ids_days: Annotated[
        int, Setting("Days to keep erased ids so that lagging consumers still receive the exit.", 0)
    ] = data.ERASED_IDS_DAYS
    retention_interval_s: Annotated[
        float, Setting("Interval between retention sweeps, in seconds.", 0.01)
    ] = RETENTION_INTERVAL_S

    changes_days: Annotated[
        int,
        Setting("Days to keep membership changes for watchers. A shorter event retention lowers it.", 1),
    ] = data.CHANGES_DAYS
    clock: Annotated[
        ClockTrust,
        Setting("Clock check at start: compare the clock with the latest time in the store, or trust it."),
    ] = "check"
    clock_follow_s: Annotated[
        float, Setting("Steady time after a clock jump before reads use the new time, in seconds.", 0)
    ] = FOLLOW_AFTER_MICROS / MICROS_PER_SECOND
    clock_settle_s: Annotated[
        float, Setting("Steady time after a clock jump before removals use the new time, in seconds.", 0)
    ] = SETTLE_AFTER_MICROS / MICROS_PER_SECOND

    readers: Annotated[
        int | None,
        Setting(
            "Processes that answer reads of activated audiences beside the one with the store, and hand on to"
            " it all else (default: one less than cores, at most 8; none in memory or in a cluster).",
            0,
            transport.READERS_MAX,
        ),
    ] = None
    connection_calls_max: Annotated[
        int,
        Setting(
            "Maximum calls at a time on one connection of a caller's, streams included.",
            1,
            transport.CONNECTION_CALLS_MOST,
        ),
    ] = transport.CONNECTION_CALLS_MAX
    worker_threads: Annotated[int, Setting("Threads for unary calls.", 1)] = transport.WORKER_THREADS
    in_flight_max: Annotated[int, Setting("Maximum unary calls in flight, queued ones included.", 1)] = (
        transport.IN_FLIGHT_MAX
    )
    streams_max: Annotated[int, Setting("Maximum concurrent StreamEvents streams.", 1)] = (
        transport.STREAMS_MAX
    )
    imports_max: Annotated[int, Setting("Maximum concurrent imports.", 1)] = transport.IMPORTS_MAX
    exports_max: Annotated[int, Setting("Maximum concurrent ExportMembers streams.", 1)] = (
        transport.EXPORTS_MAX
    )
    watchers_max: Annotated[int, Setting("Maximum concurrent WatchMembership streams.", 1)] = (
        transport.WATCHERS_MAX
    )
    jobs_max: Annotated[
        int, Setting("Maximum concurrent CreateBackup, VerifyStore and GetStoreStats calls.", 1)
    ] = transport.JOBS_MAX
    stream_idle_s: Annotated[
        float,
        Setting(
            "Maximum wait for a caller to send a stream's next request or to read an answer, in seconds.",
            0.1,
        ),
    ] = transport.STREAM_IDLE_S
    call_s_max: Annotated[
        float, Setting("Maximum duration of a unary call, in seconds. Caps the caller's deadline.", 1)
    ] = transport.CALL_S_MAX
    key_calls_per_second_max: Annotated[
        int, Setting("Maximum calls per second of an API key without its own limit.", 1)
    ] = transport.KEY_CALLS_PER_SECOND_MAX
    key_in_flight_max: Annotated[
        int, Setting("Maximum running calls of an API key without its own limit, streams included.", 1)
    ] = transport.KEY_IN_FLIGHT_MAX
    operator_slots_percent_max: Annotated[
        int,
        Setting(
            "Maximum share of the slots of a pool that others leave, of an operator key, in percent.",
            1,
            data.SLOTS_PERCENT_MAX,
        ),
    ] = data.ACCOUNT_SLOTS_PERCENT_MAX
    stop_grace_s: Annotated[
        float, Setting("Grace period for running calls after SIGTERM, in seconds.", 0)
    ] = transport.STOP_GRACE_S

    delivery_threads: Annotated[
        int,
        Setting("Threads that deliver the changes of all connections.", 1, transport.DELIVERY_THREADS_MAX),
    ] = transport.DELIVERY_THREADS
    delivery_attempt_s_max: Annotated[
        float, Setting("Maximum duration of one attempt to deliver a batch, in seconds.", 0.1)
    ] = transport.DELIVERY_ATTEMPT_S_MAX
    open_outputs_max: Annotated[
        int, Setting("Maximum files and connections that outputs keep open between batches.", 1)
    ] = transport.OPEN_OUTPUTS_MAX
    refused_bytes_max: Annotated[
        int, Setting("Maximum size of a connection's file of refused events, in bytes.", 0)
    ] = transport.REFUSED_BYTES_MAX
    output_networks: Annotated[
        str | None,
        Setting(
            "Networks that outputs may connect to although they are not public, such as 10.0.0.0/8,fd00::/8."
        ),
    ] = None
    output_ca_file: Annotated[
        Path | None,
        Setting("PEM file with the CAs that outputs' certificates come from (default: the public ones)."),
    ] = None
    retry_budget_s: Annotated[
        float,
        Setting("Time an output may keep failing before its connections become FAULTED, in seconds.", 0),
    ] = transport.RETRY_BUDGET_S

    batch_events_max: Annotated[int, Setting("Maximum events or users per batch.", 1)] = data.BATCH_EVENTS_MAX
    batch_bytes_max: Annotated[
        int, Setting("Maximum request size in bytes.", 1, transport.RECEIVE_BYTES_MAX)
    ] = data.BATCH_BYTES_MAX
    import_batch_bytes_max: Annotated[
        int, Setting("Maximum uncompressed size of an import's record batch, in bytes.", 1)
    ] = transport.IMPORT_BATCH_BYTES_MAX
    event_attributes_max: Annotated[int, Setting("Maximum attributes per event.", 1)] = (
        data.EVENT_ATTRIBUTES_MAX
    )
    name_bytes_max: Annotated[int, Setting("Maximum length of a name or user id, in bytes.", 1)] = (
        data.NAME_BYTES_MAX
    )
    string_bytes_max: Annotated[int, Setting("Maximum length of a string value, in bytes.", 1)] = (
        data.STRING_BYTES_MAX
    )
    list_items_max: Annotated[int, Setting("Maximum strings per list value.", 1)] = data.LIST_ITEMS_MAX
    list_item_bytes_max: Annotated[
        int, Setting("Maximum length of a string in a list value, in bytes.", 1)
    ] = data.LIST_ITEM_BYTES_MAX
    batch_new_names_max: Annotated[
        int,
        Setting(
            "Maximum names of events, attributes and so on in a batch that the account does not have.", 1
        ),
    ] = data.BATCH_NEW_NAMES_MAX
    display_name_characters_max: Annotated[
        int, Setting("Maximum length of a display name, in characters.", 1)
    ] = data.DISPLAY_NAME_CHARACTERS_MAX

    log_format: Annotated[LogFormat, Setting("Log format on stderr.")] = "console"
    log_level: Annotated[LogLevel, Setting("Minimum log level.")] = "info"
    access_log: Annotated[
        AccessLog,
        Setting("Calls to log. problems = failed or slow calls, not a Get that finds nothing."),
    ] = "problems"
    access_log_lines_max: Annotated[
        int,
        Setting(
            "Maximum lines on problems for one method, code and reason in 10 seconds. 0 = no limit. The"
            " others are counted in one line.",
            0,
        ),
    ] = transport.ACCESS_LOG_LINES_MAX
    metrics_port: Annotated[
        int | None,
        Setting(
            "Port for Prometheus metrics (default: none). 0 picks a free port and logs it when ready.",
            0,
            PORT_MAX,
        ),
    ] = None
    metrics_host: Annotated[str, Setting("Address that metrics are served on.")] = HOST_DEFAULT
    traces: Annotated[
        Traces, Setting("Traces of calls: none, or OpenTelemetry over OTLP, set up by OTEL_* variables.")
    ] = "off"
    slow_call_ms: Annotated[
        int, Setting("Duration from which a call counts as slow, in milliseconds.", 1)
    ] = transport.SLOW_CALL_MS

    @property
    def store_url(self) -> str:
        """The store to serve."""
        if self.memory:
            return registry.IN_MEMORY
        return self.store or f"{registry.DEFAULT_BACKEND}:{self.data_dir}"

    @property
    def keeps_nothing(self) -> bool:
        """Whether the store is in memory, and ends with the service."""
        return self.store_url == registry.IN_MEMORY

    @property
    def directory(self) -> Path | None:
        """The data directory: the embedded store's, even when `store` names it; None for one in memory."""
        if self.keeps_nothing:
            return None
        backend, location = registry.split_url(self.store_url)
        return Path(location) if backend == registry.DEFAULT_BACKEND else self.data_dir

    @property
    def tls(self) -> TlsFiles | None:
        """The files for TLS; None = plain text."""
        if self.tls_cert_file is None or self.tls_key_file is None:
            return None
        return TlsFiles(self.tls_cert_file, self.tls_key_file, self.tls_client_ca_file)

    @property
    def outputs(self) -> Path | None:
        """Directory for file outputs; None for a service that keeps nothing and was given none."""
        return self.output_dir or self._inside("outputs")

    @property
    def backups(self) -> Path | None:
        """Directory for backups; None for a service that keeps nothing and was given none."""
        return self.backup_dir or self._inside("backups")

    def _inside(self, name: str) -> Path | None:
        return None if self.directory is None else self.directory / name

    @property
    def reader_count(self) -> int:
        """How many readers there are: as set, or as many as suit the machine."""
        return readers_for(self.store_url) if self.readers is None else self.readers

    @property
    def surroundings(self) -> Surroundings:
        """What outputs are delivered with."""
        guard = Guard(networks_of(self.output_networks or ""))
        if self.output_ca_file is None:
            return Surroundings(self.outputs, guard)
        return Surroundings(self.outputs, guard, self.output_ca_file)

    @property
    def secret_keys(self) -> SecretKeys:
        """The keys of secrets; one for this process when the store is in memory. A file that is named has to
        exist. Raises FailedPrecondition for an unusable one.
        """
        if self.secret_key_file is not None:
            return SecretKeys(self.secret_key_file, may_create=False)
        file = self._inside(SECRET_KEY_FILE)
        return SecretKeys.of_this_process() if file is None else SecretKeys(file)

    @property
    def limits(self) -> Limits:
        """The engine's limits."""
        names = set(self.__struct_fields__) & set(Limits.__struct_fields__)
        return Limits(**{name: getattr(self, name) for name in names})


def fields(backend: str = registry.DEFAULT_BACKEND) -> tuple[Declared, ...]:
    """Every setting, in the order of `Config`, with those of a backend in their place."""
    of_the_store = declared(registry.registration(backend).settings)
    before = Config.__struct_fields__[: Config.__struct_fields__.index("store_settings")]
    own = declared(Config)
    return (
        *(field for field in own if field.name in before),
        *of_the_store,
        *(field for field in own if field.name not in before),
    )


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """Read the settings from a command line, an environment, and the configuration file that they name.

    Raises ConfigError for an invalid value. Exits, as argparse does, on `--help` and `--version`, and on
    an unknown flag.
    """
    file = _file_of(arguments, environment)
    in_file = _read_file(file)
    known = fields(_backend_of(arguments, environment, in_file))
    flags = parser_of(known).read(arguments)
    if file is not None:
        _check_file(file, in_file, known)
    given: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for field in known:
        for source, text in (
            (Source(0, flag_of(field.name)), flags[field.name]),
            (Source(1, variable_of(field.name)), environment.get(variable_of(field.name))),
            (Source(2, f"{field.name} in {file}"), in_file.get(field.name)),
        ):
            if text is not None:
                given[field.name], sources[field.name] = _value(field, text, source.name), source
                break
    _settle_store(given, sources)
    _check_tls(given)
    _check_networks(given, sources)
    own = {name: value for name, value in given.items() if name in Config.__struct_fields__}
    return Config(**own, store_settings={name: given[name] for name in given.keys() - own.keys()})


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from, as messages name it. The lowest rank wins."""

    rank: int
    name: str


def given_settings(config: Config) -> dict[str, str]:
    """The settings that differ from their defaults, for the log. Secrets are not shown."""
    backend, _ = registry.split_url(config.store_url)
    shown = {}
    for field in fields(backend):
        value = config.store_settings.get(field.name, getattr(config, field.name, field.default))
        if value != field.default:
            is_secret = field.name.endswith(SECRET_ENDINGS)
            shown[field.name] = "(hidden)" if is_secret else registry.shown_url(str(value))
    return shown


def unknown_variables(environment: Mapping[str, str], backend: str) -> dict[str, str]:
    """Variables that look like settings and are none, each with the nearest one that is ("" without one).

    A misspelt variable changes nothing, so the service says so. It does not refuse to start: others set
    variables of this form too, such as Kubernetes for a service named milepost.
    """
    known = {variable_of(field.name) for field in fields(backend)} | CLIENT_VARIABLES
    names = sorted(name for name in environment if name.startswith(VARIABLE_PREFIX) and name not in known)
    return {name: next(iter(difflib.get_close_matches(name, sorted(known), 1)), "") for name in names}


def _file_of(arguments: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    text = early_value(arguments, "config_file") or environment.get(variable_of("config_file"))
    return Path(text) if text else None


def _read_file(file: Path | None) -> dict[str, str]:
    try:
        return {} if file is None else config_file.read(file)
    except config_file.InvalidFile as error:
        raise ConfigError(str(error)) from None


def _check_file(file: Path, in_file: Mapping[str, str], known: Sequence[Declared]) -> None:
    names = {field.name for field in known} - {"config_file"}
    try:
        config_file.check_keys(file, in_file, names)
    except config_file.InvalidFile as error:
        raise ConfigError(str(error)) from None


def _backend_of(arguments: Sequence[str], environment: Mapping[str, str], in_file: Mapping[str, str]) -> str:
    """The backend whose settings can be given. For a faulty URL, the default backend, so that `--help` works
    and other faults are reported first.
    """
    url = early_value(arguments, "store") or environment.get(variable_of("store")) or in_file.get("store")
    try:
        return _checked_backend(url, flag_of("store"))
    except ConfigError:
        return registry.DEFAULT_BACKEND


def _settle_store(given: dict[str, Any], sources: Mapping[str, Source]) -> None:
    """Checks the store's URL. The embedded store is named by URL or by directory, or is in memory; a flag for
    one overrides the variable of another, and a variable the file.
    """
    backend = _checked_backend(given.get("store"), sources["store"].name if "store" in sources else "")
    naming = [name for name in ("memory", "store", "data_dir") if given.get(name)]
    if backend != registry.DEFAULT_BACKEND and "memory" not in naming:
        return
    first, *others = sorted(naming, key=lambda name: sources[name].rank) or ("",)
    for other in others:
        one, another = sources[first], sources[other]
        if one.rank == another.rank:
            raise ConfigError(f"{one.name} and {another.name} both name the store; set only one")
        del given[other]


def _check_tls(given: Mapping[str, Any]) -> None:
    """Raises ConfigError when only some of the files for TLS are named: plain text is served without them."""
    names = ("tls_cert_file", "tls_key_file")
    if given.keys() & {*names, "tls_client_ca_file"} and not set(names) <= given.keys():
        raise ConfigError(f"{flag_of(names[0])} and {flag_of(names[1])} belong together; set both")


def _check_networks(given: Mapping[str, Any], sources: Mapping[str, Source]) -> None:
    try:
        networks_of(given.get("output_networks", ""))
    except ValueError as error:
        raise ConfigError(f"{sources['output_networks'].name} must be networks: {error}") from None


def _checked_backend(url: str | None, source: str) -> str:
    """The backend of a URL, which can be loaded; the default one's without a URL."""
    if url is None:
        return registry.DEFAULT_BACKEND
    try:
        backend, _ = registry.split_url(url)
        registry.registration(backend)
    except InvalidInput as error:
        raise ConfigError(f"{source}: {error.violations[0].description}") from None
    except Unsupported as error:
        raise ConfigError(f"{source}: {error.message}") from None
    return backend


def _value(field: Declared, text: str, source: str) -> Any:
    try:
        return value_of(field, text)
    except InvalidValue as error:
        raise ConfigError(f"{source} {error}") from None
