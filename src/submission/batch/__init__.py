"""The batch folder on disk: its runs, journals, task files, provenance and markers of synced copies.

`slurm` and all folders above it may import it; it imports `system` and `spec`. Begin with `batch_folder.py`, then
`journal.py`.
"""
