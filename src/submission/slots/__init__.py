"""How many runs a worker has at a time with `--slots auto`: measurements, the policy, and what is recorded of both.

`status`, `job` and all folders above them may import it; it imports `system` to `usage`. Begin with `policy.py`.
"""
