"""The training loop, from built objects to a stream of rows. train.py and the commands import it.

Begin with `experiment.py`, which runs the epochs; `components.py` builds its parts, and `training_phase.py` and
`evaluation_phase.py` are the two halves of an epoch, with inner loops in `epoch.py`. Subfolders: `setup` before the
first step, `steps` for one batch, `parallel` for several processes, `output` for files.
"""
