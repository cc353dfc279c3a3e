"""Tests of plans over a ClickHouse cluster, against real servers."""
