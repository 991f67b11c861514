"""Fake Slurm commands for tests: `sbatch`, `squeue`, `sacct` … that keep their state in a folder and fail on request.

`fixture.py` is what tests import, and where to begin reading. `commands/` holds the commands, one module each; the
modules beside this one hold the state that tests and commands share. docs/testing.md describes how to use it.

Each call of a command is a Python process of its own, so the modules that it loads import only `os`, `sys` and `time`
at the top.
"""
