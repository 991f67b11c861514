"""How many runs a worker has at a time with `--slots auto`: measurements, the policy, and its records."""
