"""Stored results that a refactoring must reproduce."""
