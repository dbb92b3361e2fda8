"""Tests by kind: unit, distributed, golden, end to end, GPU."""
