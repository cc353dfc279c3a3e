"""Backends: where users' data are stored and plans are executed. `base` is the boundary."""
