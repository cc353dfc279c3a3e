"""Who calls, and what they may do: API keys, scopes, tenants, limits of a key, and TLS.

`Gate` is the only part that calls pass. It knows keys from an immutable `KeySnapshot`, so a process without
the store can have one too.
"""
