"""The files that a training writes: rows, checkpoints, resume states, logs. Imports `setup` and `parallel`.

Begin with `recorder.py`.
"""
