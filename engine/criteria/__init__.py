"""The criteria language: its nodes, their validation, and their meaning for one value."""
