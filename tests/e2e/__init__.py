"""Tests of whole commands and of several stages in their own processes."""
