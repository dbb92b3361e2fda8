"""Quantizers, tables, sharding, history arm, interaction, and the ranker."""
