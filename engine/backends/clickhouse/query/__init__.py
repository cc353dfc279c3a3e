"""Plans as ClickHouse statements."""
