"""Applying the log, group commit and checkpoints."""
