"""Sizes, stored membership and membership answers, on top of a backend."""
