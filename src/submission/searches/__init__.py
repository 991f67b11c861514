"""From a job spec to a search: its space, its definition, and what a dry run prints of it.

The folders below it, planning and execution, may import it. Begin with `define.py`.
"""
