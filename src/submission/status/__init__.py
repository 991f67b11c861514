"""The state of runs: evidence from folders, squeue and sacct, the state it implies, and the tables that show it.

`job`, `planning`, `execution` and the commands may import it; it imports `system` to `usage`. Begin with `states.py`,
then `observe.py`.
"""
