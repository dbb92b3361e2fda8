"""Configuration, recipes, the stages, metrics, checkpoints and reports."""
