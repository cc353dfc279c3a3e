"""Stored membership: who is in an audience, its change log, dirty users and the ids of erased users.

`store.Memberships` puts the parts together, so that each operation is one durable transaction.
"""
