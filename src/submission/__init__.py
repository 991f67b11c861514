"""A job spec becomes a grid, run folders, and Slurm jobs or local workers. Never loads torch, numpy or pandas.

The entry points and src/commands import it; src/training, src/tracking and src/analysis do not. From the bottom up:
`system`, `spec`, `batch`, `slurm`, `status`, `job`, `planning`, `execution`; beside them `remote` and `doctor`. Begin
with submit_multiple.py, which calls them in order.
"""
