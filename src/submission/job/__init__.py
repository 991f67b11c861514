"""Inside a Slurm job or local worker: claim a run, run it once, record how it ended, requeue if it must go on.

train.py, the commands, `planning` and `execution` may import it; it imports `system` to `status`. Begin with
`attempt.py`, then `worker.py`.
"""
