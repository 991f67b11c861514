"""The files that a training writes: rows, checkpoints, resume states, logs.

src/training and train.py import it; of training it imports `setup` and `parallel`. Begin with `recorder.py`.
"""
