"""The state of runs: evidence from folders, squeue and sacct, the state it implies, and the tables that show it.

Imports `system`, `spec`, `batch` and `slurm`. Begin with `states.py`, then `observe.py`.
"""
