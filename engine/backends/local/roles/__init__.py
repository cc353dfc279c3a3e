"""The roles of the embedded backend, one file each, as in `engine.backends.base`."""
