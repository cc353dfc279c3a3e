"""Everything of the writer's that readers need: the port, the socket, the memory, the time, the processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from engine import Engine
from engine.backends import registry
from engine.backends.base import ServingWriter
from engine.clock import Clock
from engine.errors import Unsupported
from engine.measures import Measure
from engine.resources.records import Account, ApiKey
from service.auth.listening import cannot_listen
from service.auth.running import RunningCalls
from service.auth.snapshot import snapshot_of
from service.config import Config
from service.health import Health
from service.readers.shared_port import SharedPort, WriterSocket
from service.readers.supervisor import CountCalls, Readers
from service.repeating import Repeating

CLOCK_INTERVAL_S = 0.5


class Front:
    """The readers of a service, and what they share with it."""

    def __init__(self, config: Config, engine: Engine) -> None:
        """Takes the port. Raises CannotListen, and Unsupported where memberships cannot be served."""
        self._config = config
        self._engine = engine
        backend, _ = registry.split_url(config.store_url)
        tools = registry.registration(backend).serving
        if tools is None:
            raise Unsupported(
                f"the backend {backend!r} serves no readers: start the service with --readers 0"
            )
        self._serving: ServingWriter = tools.writer(engine.backend)
        try:
            self._port = SharedPort(config.host, config.port)
        except OSError as error:
            raise cannot_listen(config.host, config.port, error) from error
        self._socket = WriterSocket(config.directory)
        self._clock = _ServingClock(self._serving, engine.clock)
        self._readers: Readers | None = None
        self.running = RunningCalls(config.reader_count + 1)
        """Running calls of all processes."""
        engine.serve_with(self._serving)
        engine.api_keys.subscribe(self._put_keys)

    @property
    def port(self) -> int:
        """The port that readers share."""
        return self._port.port

    @property
    def socket(self) -> WriterSocket:
        """Where the writer listens."""
        return self._socket

    @property
    def pids(self) -> list[int]:
        """Process ids of the readers that run."""
        return [] if self._readers is None else self._readers.pids

    @property
    def spare_pid(self) -> int | None:
        """Process id of the reader in reserve; None while there is none."""
        return None if self._readers is None else self._readers.spare.pid

    def _put_keys(self, keys: Iterable[ApiKey], accounts: Iterable[Account]) -> None:
        self._serving.put_keys(snapshot_of(keys, accounts, self.running).encoded())

    def measures(self) -> Iterator[Measure]:
        """Readers that run, and those that were replaced."""
        if self._readers is not None:
            yield from self._readers.measures()

    def start(self, health: Health, count: CountCalls) -> None:
        """Starts the readers and waits until they serve. The writer serves already. `count` takes the calls
        that readers answer.
        """
        self._clock.start()
        self._readers = Readers(
            self._config,
            self._engine,
            self._serving,
            port=self._port.port,
            writer_socket=self._socket.path,
            running=self.running,
            health=health.states,
            count=count,
        )
        health.tell(self._readers.tell_health)
        self._readers.start()

    def reload(self) -> None:
        """Has the readers read the TLS files again."""
        if self._readers is not None:
            self._readers.reload()

    def stop(self) -> None:
        """Stops the readers, and waits until their calls have ended."""
        if self._readers is not None:
            self._readers.stop()

    def close(self) -> None:
        """Lets go of everything else. Call once the engine does no more rounds."""
        self._clock.stop()
        self._serving.close()
        self.running.close()
        self._socket.close()
        self._port.close()


class _ServingClock(Repeating):
    """Gives readers the time every `CLOCK_INTERVAL_S`."""

    def __init__(self, serving: ServingWriter, clock: Clock) -> None:
        super().__init__("serving-clock")
        self._serving = serving
        self._clock = clock

    def _turn(self) -> float:
        self._serving.keep_time(self._clock())
        return CLOCK_INTERVAL_S
