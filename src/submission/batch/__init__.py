"""The batch folder on disk: its runs, journals, task files, provenance and markers of synced copies.

Imports `system` and `spec`. Begin with `batch_folder.py`, then `journal.py`.
"""
