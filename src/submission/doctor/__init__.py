"""Checks of a machine for `experiments.py doctor`: probes collect facts, checks judge them.

Only the commands import it; it imports `system`, `slurm` and `packing`. Begin with `checks.py`.
"""
