"""Generated messages and service stubs of the package `milepost.v1`."""
