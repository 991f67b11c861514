"""From run folders to data frames: read, parse, cache and filter the files of runs.

All of src/analysis, `src/dashboard` and the commands may import it; it imports nothing of them. Begin with
`results.py`.
"""
