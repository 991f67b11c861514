"""What runs and Slurm jobs used, from sacct and from files, what to request next time, and what a submission costs.

`status` and all folders above it may import it; it imports `system` to `slurm`. Begin with `right_size.py`.
"""
