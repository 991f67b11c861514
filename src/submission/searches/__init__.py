"""From a job spec to a search: its space, its definition, and what a dry run prints of it.

`job`, `planning`, `execution` and the commands may import it; it imports `system` to `usage`. Begin with `define.py`.
"""
