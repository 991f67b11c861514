"""The processing of a batch: forward pass, loss, gradients, optimizer step, metrics.

src/training and train.py import it; it imports `setup` and `parallel`. Begin with `task.py`; `distributed_steps.py` is
its counterpart for several processes.
"""
