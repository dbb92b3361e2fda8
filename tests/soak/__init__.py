"""Faults at many points of a run: a few of them in CI, all with `make soak`."""
