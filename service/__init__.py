"""The gRPC server around the engine: handlers, access, delivery to outputs, telemetry and configuration."""
