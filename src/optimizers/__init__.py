"""Optimizers, learning-rate schedules and parameter averaging.

Only src/training imports it; its modules import neither data sets nor models. Begin with `factory.py`, which builds the
optimizer of a config.
"""
