"""Files that a training writes: rows, checkpoints, resume state, logs. Imports `setup` and `parallel`.

Begin with `recorder.py`.
"""
