"""The commands of experiments.py: their arguments and what they print; the work itself is done by the other folders.

The top folder of `src`: it may import all others, inside functions where that is slow; only experiments.py, where to
begin, and submit_multiple.py import it. The table in experiments.py names the module of each command, whose
`add_<command>` defines the arguments.
"""
