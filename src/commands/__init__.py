"""The commands of experiments.py: their arguments and what they print; the work itself is done by the other folders.

The top folder of `src`: it may import all others, inside functions where that is slow; nobody imports it but
experiments.py, whose table names the module of each command. `add_<command>` in that module defines the arguments.
"""
