"""Data sets by name: `factory` reads one through the module of its family and cuts it into splits.

Training, commands and train.py import it; its modules import neither models nor training. Begin with `factory.py`,
then `data.py`, the types that all families return.
"""
