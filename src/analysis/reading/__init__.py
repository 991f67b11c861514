"""From run folders to data frames: read, parse, cache and filter the files of runs. Begin with `results.py`."""
