"""The commands of experiments.py: their arguments and what they print; the work itself is done by the other folders.

The top folder of `src`: it may import all others, inside functions where that is slow; nobody imports it but
experiments.py, where to begin: its table names the module of each command, whose `add_<command>` defines the arguments.
"""
