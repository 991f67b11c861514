"""Checks of a machine for `experiments.py doctor`: probes collect facts, checks judge them.

Only the commands import it; it imports `system` and `slurm`. Begin with `checks.py`.
"""
