"""The handlers of every service of the contract, put together."""

from __future__ import annotations

from importlib import metadata

import grpc

from engine import Engine
from milepost.v1 import (
    account_service_pb2_grpc,
    admin_service_pb2_grpc,
    audience_service_pb2_grpc,
    catalog_service_pb2_grpc,
    connection_service_pb2_grpc,
    ingest_service_pb2_grpc,
    journey_service_pb2_grpc,
)
from service.auth.gate import Gate
from service.backups import Backups
from service.command_line import DISTRIBUTION
from service.config import Config
from service.convert.revisions import Revisions
from service.deadlines import Deadlines
from service.delivery.testing import OutputTests
from service.handlers.account import AccountHandlers
from service.handlers.admin import AdminHandlers
from service.handlers.audience import AudienceHandlers
from service.handlers.catalog import CatalogHandlers
from service.handlers.connection import ConnectionHandlers
from service.handlers.ingest import IngestHandlers
from service.handlers.journey import JourneyHandlers
from service.handlers.runtime import Runtime
from service.stopping import Stopping


def runtime_of(engine: Engine, config: Config, gate: Gate, stopping: Stopping) -> Runtime:
    """What the handlers of a service with these settings share."""
    return Runtime(
        engine=engine,
        revisions=Revisions(engine.backend.store_id, engine.signer, engine.backend.revision),
        deadlines=Deadlines(config.call_s_max, stopping),
        stopping=stopping,
        gate=gate,
        import_batch_bytes_max=config.import_batch_bytes_max,
        backups=Backups(config.backups, engine.pages, engine.clock),
        output_tests=OutputTests(engine, config.surroundings, config.delivery_attempt_s_max),
        start_time=engine.clock(),
        version=metadata.version(DISTRIBUTION),
    )


def add_handlers(runtime: Runtime, server: grpc.Server) -> None:
    """Registers the handlers of every service at a server, or at what collects handlers as one does."""
    account_service_pb2_grpc.add_AccountServiceServicer_to_server(AccountHandlers(runtime), server)
    admin_service_pb2_grpc.add_AdminServiceServicer_to_server(AdminHandlers(runtime), server)
    audience_service_pb2_grpc.add_AudienceServiceServicer_to_server(AudienceHandlers(runtime), server)
    catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(CatalogHandlers(runtime), server)
    connection_service_pb2_grpc.add_ConnectionServiceServicer_to_server(ConnectionHandlers(runtime), server)
    ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(IngestHandlers(runtime), server)
    journey_service_pb2_grpc.add_JourneyServiceServicer_to_server(JourneyHandlers(runtime), server)
