"""One adapter per public data set, and the simulated world: raw files as published to canonical tables."""
