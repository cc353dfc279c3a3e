"""Other databases that answer the same questions over the same rows, each in its best form."""
