"""The embedded backend: LMDB for durability, Roaring bitmaps and columns for answers."""
