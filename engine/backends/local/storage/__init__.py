"""The store's files: the directory, its header and lock, LMDB environments, transactions and copies."""
