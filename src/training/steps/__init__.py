"""What happens with a batch: forward pass, loss, gradients, optimizer step, metrics.

Imports `setup` and `parallel`. Begin with `task.py`; `distributed_steps.py` is its counterpart for several processes.
"""
