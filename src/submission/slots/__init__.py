"""The number of runs that a worker has at a time with `--slots auto`: measurements, the policy, and records of both.

`status`, `job` and all folders above them may import it; it imports `system` to `usage`. Begin with `policy.py`.
"""
