"""The catalog: names and values that data came with."""
