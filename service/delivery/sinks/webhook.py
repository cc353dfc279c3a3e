"""Webhooks: CloudEvents by HTTP POST, signed according to Standard Webhooks.

A request is a batch or, in the structured and binary modes, one event. The next request begins when the last
one was answered, so the order of events is kept. A request that failed is sent again with the same events and
the same `webhook-id`, whatever has been added behind them since.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import NoReturn

import httpx
import msgspec
import xxhash
from cloudevents.core.bindings import http as binding
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks import Webhook as Signer

from engine.audiences.deliveries import Delivery
from engine.resources.targets import HIDDEN, ContentMode, Webhook
from engine.values import MICROS_PER_SECOND, Micros
from service.delivery.guard import TargetRefused
from service.delivery.guarded_http import HTTP_ERRORS, GuardedTransport
from service.delivery.sinks.sink import NEVER, Event, Receipt, SinkError, Surroundings
from service.delivery.trust import trusting

REQUEST_BYTES_MAX = 4 * 1024 * 1024
"""Size of a request from which a batch is divided. A larger event goes alone."""
RESPONSE_BYTES_MAX = 64 * 1024
"""How much of a response is read. What is longer is cut off with its connection."""
EXCERPT_CHARACTERS_MAX = 256
"""How much of a response an error repeats."""
REFUSALS_BYTES_MAX = 4 * 1024 * 1024
"""How much of a response that lists refused events is read: enough for a batch of 10,000."""
RETRY_AFTER_S_MAX = 86_400.0
"""Longest wait that a receiver can ask for."""

BATCH_TYPE = "application/cloudevents-batch+json"
REFUSALS_TYPE = "application/vnd.milepost.refusals+json"
"""Media type of a response that lists refused events."""
EVENT_TYPE = "application/cloudevents+json"
USER_AGENT = "milepost"

_RETRIED = frozenset((408, 429))
_GONE = 410
_JSON = JSONFormat()
_ID_PREFIX = "msg_"


class _Refusal(msgspec.Struct):
    id: str
    reason: str = ""


class _Refusals(msgspec.Struct):
    refused: list[_Refusal]


@dataclass(frozen=True, slots=True)
class PreviousSecret:
    """The signing secret before the present one, which signs too until it expires."""

    secret: str = ""
    expire_time: Micros = 0

    def signers(self, now_s: int) -> Iterator[Signer]:
        """The signer at a time in seconds since 1970, if it has not expired."""
        if self.secret and now_s * MICROS_PER_SECOND < self.expire_time:
            yield Signer(self.secret)


class WebhookSink:
    """Posts to one URL."""

    @classmethod
    def open(cls, delivery: Delivery, surroundings: Surroundings) -> WebhookSink:
        """The sink of a delivery to an output of kind `webhook`. Raises SinkError for an unusable CA file."""
        target = delivery.output.target
        assert isinstance(target, Webhook)
        previous = PreviousSecret(
            delivery.previous_secrets.get("secret", ""), delivery.output.previous_expire_time
        )
        return cls(delivery.connection.name, target, surroundings, previous)

    def __init__(
        self,
        connection: str,
        target: Webhook,
        surroundings: Surroundings,
        previous: PreviousSecret | None = None,
    ) -> None:
        self._connection = connection
        self._target = target
        self._surroundings = surroundings
        try:
            self._url = httpx.URL(target.url)
            # A host that says it is internationalised may be none.
            self._host = self._url.host
        except (httpx.InvalidURL, UnicodeError) as error:
            raise SinkError(f"the URL of the webhook cannot be used: {error}", final=True) from error
        self._signer = Signer(target.secret)
        self._previous = previous or PreviousSecret()
        self._hidden = (self._previous.secret, *_texts_to_hide(target, self._url))
        self._client: httpx.Client | None = None
        self._transport: GuardedTransport | None = None
        self._taken: set[str] = set()
        """Ids that the receiver took of a batch that is not finished."""
        self._refused: dict[str, str] = {}
        """Reasons of those among them that it refused, by id."""
        self._repeated: tuple[str, ...] = ()
        """Ids of the request that failed last."""

    @property
    def is_open(self) -> bool:
        """Whether a connection may be open."""
        return self._client is not None

    def deliver(self, events: Sequence[Event], deadline: float) -> Receipt | None:
        """Posts the events that the receiver has not taken yet. Raises SinkError. Returns the last answer."""
        receipt = None
        left = [event for event in events if event.id not in self._taken]
        for request in self._requests(left):
            ids = tuple(event.id for event in request)
            self._repeated = ids
            try:
                receipt = self._post(request, deadline)
                self._refused.update(receipt.refused)
            except SinkError as error:
                error.progressed = ids[0] != left[0].id
                raise
            self._taken.update(ids)
            self._repeated = ()
        self._taken.clear()
        refused, self._refused = self._refused, {}
        return None if receipt is None else replace(receipt, refused=refused)

    def tend(self) -> float:
        """Nothing is ever due between batches."""
        return NEVER

    def close(self) -> None:
        """Closes the connection."""
        client, self._client, self._transport = self._client, None, None
        if client is not None:
            client.close()

    # --- requests -------------------------------------------------------------------------------------------

    def _requests(self, events: Sequence[Event]) -> Iterator[Sequence[Event]]:
        """The events of each request. What failed last is sent again as it was."""
        if self._target.mode is not ContentMode.BATCHED:
            yield from ((event,) for event in events)
            return
        ids = tuple(event.id for event in events[: len(self._repeated)])
        repeated = len(ids) if ids == self._repeated else 0
        if repeated:
            yield events[:repeated]
        yield from _divided(events[repeated:])

    def _post(self, events: Sequence[Event], deadline: float) -> Receipt:
        headers, body = self._message(events)
        headers |= self._signature(events, body)
        try:
            client, transport = self._opened()
            transport.until(deadline)
            with client.stream("POST", self._url, headers=headers, content=body) as response:
                answer = _read(response)
        except TargetRefused as error:
            raise SinkError(str(error), final=True) from error
        except HTTP_ERRORS as error:
            raise SinkError(f"{self._host}: {str(error) or type(error).__name__}") from error
        receipt = Receipt(response.status_code, self._excerpt(answer))
        if not response.is_success:
            self._fail(receipt, response)
        if _lists_refusals(response):
            return replace(receipt, refused=self._refusals(events, answer))
        return receipt

    def _message(self, events: Sequence[Event]) -> tuple[dict[str, str], bytes]:
        """Headers and body of a request, without the signature."""
        if self._target.mode is ContentMode.BATCHED:
            return {"content-type": BATCH_TYPE}, b"[" + b",".join(event.body for event in events) + b"]"
        [event] = events
        if self._target.mode is ContentMode.STRUCTURED:
            return {"content-type": EVENT_TYPE}, event.body
        message = binding.to_binary(_JSON.read(None, event.body), _JSON)
        return {name.lower(): value for name, value in message.headers.items()}, message.body

    def _signature(self, events: Sequence[Event], body: bytes) -> dict[str, str]:
        ids = "\0".join((self._connection, *(event.id for event in events)))
        name = f"{_ID_PREFIX}{xxhash.xxh3_128_hexdigest(ids.encode())}"
        now_s, text = int(time.time()), body.decode()
        signers = [self._signer, *self._previous.signers(now_s)]
        now = datetime.fromtimestamp(now_s, UTC)
        return {
            "webhook-id": name,
            "webhook-timestamp": str(now_s),
            "webhook-signature": " ".join(signer.sign(name, now, text) for signer in signers),
        }

    def _opened(self) -> tuple[httpx.Client, GuardedTransport]:
        if self._client is None or self._transport is None:
            try:
                tls = trusting(self._surroundings.ca_file)
            except OSError as error:
                raise SinkError(
                    f"the CA file {self._surroundings.ca_file} cannot be used: {error}; see --output-ca-file"
                ) from error
            self._transport = GuardedTransport(self._surroundings.guard, tls)
            # What a receiver wants to be remembered is not: no cookies. No proxies, which would connect
            # elsewhere than the guard allows.
            cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
            self._client = httpx.Client(
                transport=self._transport,
                cookies=cookies,
                headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
                follow_redirects=False,
                trust_env=False,
                timeout=None,
            )
        return self._client, self._transport

    # --- answers --------------------------------------------------------------------------------------------

    def _fail(self, receipt: Receipt, response: httpx.Response) -> NoReturn:
        status = receipt.status
        what = f"{self._host} answered {status} {response.reason_phrase}".rstrip()
        if receipt.excerpt:
            what += f": {receipt.excerpt}"
        if status in _RETRIED or response.is_server_error:
            wait_s = retry_after_s(response.headers.get("retry-after", ""), time.time())
            raise SinkError(what, retry_after_s=wait_s, receipt=receipt)
        if status == _GONE:
            what += "; the endpoint wants no more: resume the connection once it does"
        elif response.is_redirect or 300 <= status < 400:
            what += (
                "; redirects are not followed: change the URL with UpdateOutput, then resume the connection"
            )
        raise SinkError(what, final=True, receipt=receipt)

    def _refusals(self, events: Sequence[Event], answer: bytes) -> dict[str, str]:
        """The reasons in a response that lists refused events, by id."""
        if len(answer) >= REFUSALS_BYTES_MAX:
            raise SinkError(f"{self._host} lists refused events in more than {REFUSALS_BYTES_MAX} bytes")
        try:
            listed = msgspec.json.decode(answer, type=_Refusals).refused
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SinkError(f"{self._host} lists refused events in a form that cannot be read") from error
        refused = {each.id: self._excerpt(each.reason.encode()) for each in listed}
        unknown = refused.keys() - {event.id for event in events}
        if unknown:
            raise SinkError(
                f"{self._host} refused events that were not in the request: {min(unknown)!r:.100}"
            )
        return refused

    def _excerpt(self, answer: bytes) -> str:
        """The start of a response on one line, without what this service keeps secret."""
        text = " ".join(answer.decode(errors="replace").split())
        for secret in filter(None, self._hidden):
            text = text.replace(secret, HIDDEN)
        text = "".join(c if c.isprintable() else "\ufffd" for c in text[: EXCERPT_CHARACTERS_MAX + 1])
        if len(text) <= EXCERPT_CHARACTERS_MAX:
            return text
        return text[: EXCERPT_CHARACTERS_MAX - 1] + "…"


def _divided(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """Parts of at most `REQUEST_BYTES_MAX` bytes."""
    begun, size_bytes = 0, 0
    for index, event in enumerate(events):
        if size_bytes + len(event.body) > REQUEST_BYTES_MAX and index > begun:
            yield events[begun:index]
            begun, size_bytes = index, 0
        size_bytes += len(event.body)
    if begun < len(events):
        yield events[begun:]


def retry_after_s(text: str, now: float) -> float | None:
    """The wait that a `Retry-After` header asks for, in seconds or until a date; None when it asks for none.
    `now` is the machine's time, in seconds since 1970.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        # A number of any length is read; only its size matters.
        return min(float(text[:20]), RETRY_AFTER_S_MAX)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return min(max(0.0, until.timestamp() - now), RETRY_AFTER_S_MAX)


def _read(response: httpx.Response) -> bytes:
    """The body, up to a limit."""
    bytes_max = REFUSALS_BYTES_MAX if _lists_refusals(response) else RESPONSE_BYTES_MAX
    read = bytearray()
    for chunk in response.iter_raw():
        read += chunk
        if len(read) >= bytes_max:
            break
    return bytes(read[:bytes_max])


def _lists_refusals(response: httpx.Response) -> bool:
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return bool(response.is_success and media_type == REFUSALS_TYPE)


def _texts_to_hide(target: Webhook, url: httpx.URL) -> tuple[str, ...]:
    """What a receiver that repeats a request could show: signing secrets and the password in the URL."""
    password = (base64.b64encode(f"{url.username}:{url.password}".encode()).decode(), url.password)
    return (target.secret, *(password if url.password else ()))
