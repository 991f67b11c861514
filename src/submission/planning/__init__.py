"""From the command line to a plan, and its execution: what is submitted, how, and why.

The top folder of `src/submission`: may import all others. Begin with `planner.py`, then `execute.py`.
"""
