"""Sinks: one file per kind of output."""
