"""Accounts, journeys, milestones, outputs and connections: the tree, its rules, credits and lifecycle."""
