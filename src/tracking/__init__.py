"""GUI trackers, each a module behind the small interface of tracker.py. The files of a run are the truth."""
