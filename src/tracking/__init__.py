"""Trackers show a run in other tools: MLflow, TensorBoard, Comet, W&B. The files of a run are complete without them.

Each is a module with a class that implements the interface in `tracker.py`, where to begin; `trackers.py` runs them in
threads. src/training and the commands import it.
"""
