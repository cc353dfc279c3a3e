"""Users' data in a ClickHouse cluster: its tables, and plans as statements over them.

A part of a backend: it has no role yet, and no URL opens it. What a backend keeps beside users' data (log,
documents, stored memberships) stays in the embedded store.
"""
