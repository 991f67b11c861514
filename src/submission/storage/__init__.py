"""The location of batches and runs: rename, move, delete and archive them.

`slurm` and all folders above it may import it; it imports `system` to `batch`. Begin with `relocation.py`, then
`archiving.py`.
"""
