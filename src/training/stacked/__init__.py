"""Several runs that are trained as one: their parameters are stacked, and each step updates all of them.

train.py imports it; it imports the other folders of training. Begin with `run.py`, which trains a stack to its end.
A member of a stack has everything that a single run has, but its tensors are views of the stack's.
"""
