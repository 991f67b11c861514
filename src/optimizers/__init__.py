"""Optimizers, learning-rate schedules and parameter averaging; `factory` builds the optimizer of a config."""
