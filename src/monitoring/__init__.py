"""A run while it trains: the clock of its loop, its samples, and whether its GPUs are idle.

`submission`, `tracking`, `training`, `analysis` and the folders above them may import it; it imports `src/io` only.
Begin with `gpu_idle.py`.
"""
