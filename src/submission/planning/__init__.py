"""From the command line to a plan: which runs of which batch are submitted, how they are started, and what is printed.

Writes and submits nothing; `execution` does. May import all folders of `src/submission` but that. The types of the
stages are in `submission_plan.py`; begin with `planner.py`, then `launch.py` and `sbatch_calls.py`.
"""
