"""What a run shows of itself while it trains: the clock of its loop, its samples, and whether its GPUs are idle.

`submission`, `tracking`, `training` and the folders above them may import it; it imports `src/io` only. Begin with
`gpu_idle.py`.
"""
