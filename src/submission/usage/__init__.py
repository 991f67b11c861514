"""The resources that runs and Slurm jobs used, those to request next time, and the cost of a submission.

`status` and all folders above it may import it; it imports `system` to `slurm`. Begin with `right_size.py`.
"""
