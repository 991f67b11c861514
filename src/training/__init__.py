"""The training loop: builds what a config describes, and trains it; yields a row for each epoch.

train.py and the commands import it. Begin with `experiment.py`, which runs the epochs; `components.py` builds parts,
and `training_phase.py` and `evaluation_phase.py` are the two halves of an epoch, with inner loops in `epoch.py`.
Subfolders: `setup` before the first step, `steps` for one batch, `parallel` for several processes, `output` for files.
"""
