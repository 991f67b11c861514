"""Everything that calls Slurm or interprets its answers: commands, submission, errors and limits.

`status` and all folders above it may import it; it imports `system`, `spec` and `batch`. Begin with `client.py`, then
`submit.py`.
"""
