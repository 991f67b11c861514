"""One step and one evaluation: batches, forward pass, losses, meters, clipping, tasks.

Imports `setup` and `parallel`. Begin with `shared_steps.py`, then `task.py`.
"""
