"""The first API key of a store that no service has open."""

from __future__ import annotations

import os
from collections.abc import Sequence

from engine import Engine
from engine.backends import registry
from engine.clock import Clock
from engine.errors import FailedPrecondition, MilepostError
from engine.resources.records import ApiKey, Scope
from milepost.v1.account_service_pb2 import CreateApiKeyResponse
from service.config import Config, ConfigError, load
from service.convert.api_keys import api_key_message
from service.directories import opening_data_dir, os_error_in_words
from service.offline import OfflineError

KEY_ID = "operator"


class UsageError(Exception):
    """An invalid setting. The message names it."""


def create(arguments: Sequence[str], *, key_id: str, another: bool) -> CreateApiKeyResponse:
    """Creates an operator key in the store that the service would open with these arguments, and creates the
    store if there is none. A store that has an operator key gets one more only if `another`.

    Raises UsageError for the arguments; OfflineError.
    """
    try:
        config = load(arguments, os.environ)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    try:
        created, secret = _created(config, key_id, another=another)
    except MilepostError as error:
        raise OfflineError(error.message) from error
    except OSError as error:
        raise OfflineError(os_error_in_words(error)) from error
    return CreateApiKeyResponse(api_key=api_key_message(created), secret=secret)


def _created(config: Config, key_id: str, *, another: bool) -> tuple[ApiKey, str]:
    clock = Clock(trusted_at_start=config.clock == "trust")
    with opening_data_dir(config.directory):
        backend = registry.open_backend(config.store_url, settings=config.store_settings, clock=clock.stamp)
    try:
        engine = Engine(backend, limits=config.limits, clock=clock)
    except BaseException:
        backend.close()
        raise
    try:
        if engine.api_keys.has_operator_key() and not another:
            raise FailedPrecondition(
                f"the store in {registry.shown_url(config.store_url)} has an operator key already; if its"
                " secret is lost, --another ID creates one more"
            )
        return engine.api_keys.create_key("", key_id, ApiKey(name="", scopes=(Scope.OPERATOR,)))
    finally:
        engine.close()
