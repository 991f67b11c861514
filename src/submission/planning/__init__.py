"""From the command line to a plan: which runs of which batch are submitted, how they are started, what is printed.

submit_multiple.py, the commands and `execution` may import it; it imports all folders below. It submits and writes
nothing, except that it finishes an extension of the batch that was interrupted; a dry run does not even that. The types
of the stages are in `submission_plan.py`; begin with `planner.py`, then `launch.py` and `sbatch_calls.py`.
"""
