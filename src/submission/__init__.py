"""A job spec becomes a grid, run folders, and Slurm jobs or local workers. Never loads torch, numpy or pandas.

The entry points, src/commands and src/terminal import it; training, trackers and analysis do not. From the bottom up:
`system`, `spec`, `batch`, `storage`, `slurm`, `usage`, `slots`, `status`, `searches`, `job`, `planning`, `execution`;
beside them `packing`, `remote`, `doctor`, `setup`. Begin with submit_multiple.py, which calls them in order.
"""
