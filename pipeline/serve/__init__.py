"""Serving: a run's model as a bundle of files, and what scores requests with it, with exactly the training's features."""
