"""The Python client of Milepost."""
