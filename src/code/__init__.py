"""The code that runs execute: its state at a submission and at each start, and which files of it a run may use.

Everything may import it but `io`, `checks`, `archive` and the modules directly in `src`, which are all that it imports.
Begin with `code_state.py`; `program_files.py` finds the files of a command, `code_versions.py` compares the runs of a
batch.
"""
