"""Stored membership: who is in an audience, and its change log."""
