"""Checks of a machine for `experiments.py doctor`: probes collect facts, checks judge them.

Imports `system` and `slurm`. Begin with `checks.py`.
"""
