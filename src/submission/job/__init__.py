"""Inside a Slurm job or local worker: claim a run, run it once, record how it ended, requeue if it must go on.

Imports `system`, `spec`, `batch`, `slurm` and `status`. Begin with `attempt.py`, then `worker.py`.
"""
