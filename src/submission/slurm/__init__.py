"""Everything that calls Slurm or interprets its answers: commands, submission, errors, limits and costs.

Imports `system`, `spec` and `batch`. Begin with `client.py`, then `submit.py`.
"""
