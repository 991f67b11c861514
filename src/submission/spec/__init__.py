"""From a job spec to its grid: the grammar of the YAML file, its expansion to specs, and the names of runs.

Imports `system` only; nothing here writes a file or calls Slurm. Begin with `job_spec.py`, then `grid.py`.
"""
