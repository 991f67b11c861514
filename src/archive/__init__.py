"""Archives of ended runs: ZIP files in `archive` of a batch, and reading a run's files from its folder or from there.

Everything but `src/io` and `src/checks` may import it; it imports only `src/io` and `src.errors`. Begin with
`run_files.py`, by which all readers of runs read, then `contents.py`, then `volume.py`.
"""
