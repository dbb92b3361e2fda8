"""Impressions enriched as they come: micro-batches from a folder or a Redis stream, appended to a data set exactly once."""
