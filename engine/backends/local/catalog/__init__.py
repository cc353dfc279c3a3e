"""The catalog: names and values that occur in the data."""
