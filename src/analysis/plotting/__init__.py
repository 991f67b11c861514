"""From data frames to figures. Imports `reading` and `tables`. Begin with `plots.py`."""
