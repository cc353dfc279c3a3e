"""Serving memberships to readers: other processes that map the same memory.

arena.py        the memory: words and blocks
layout.py       what lies where, and why a reader is never behind an acknowledged write
accounts.py     an account in the memory: how to find its users, and when each was last touched
scopes.py       a scope in the memory: its members, and what they hold for
writer.py       what the process with the store does
views.py        records, accounts and scopes as a reader sees them
reader.py       what a reader answers
"""
