"""User attributes, identities and consents: index and profiles."""
