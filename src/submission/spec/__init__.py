"""From a job spec to its grid: the grammar of the YAML file, its expansion to specs, and the names of runs.

All folders above it may import it; it imports `system` only, writes no file and never calls Slurm. Begin with
`job_spec.py`, then `grid.py`.
"""
