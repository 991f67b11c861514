"""The commands, one module each with a function `run(cluster, arguments, call_number)` that returns the output.

A call starts in `main.py`, which imports the module of its command alone. Commands raise `CommandExit` to fail, with
Slurm's own message, or with exit code 97 for whatever is not implemented here.
"""
