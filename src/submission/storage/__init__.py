"""Where batches and runs are kept: rename, move, delete and archive them.

`slurm` and all folders above it may import it; it imports `batch` and `system`. Begin with `relocation.py`, then
`archiving.py`.
"""
