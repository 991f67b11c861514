"""From data frames to figures, each with a caption that says which runs count.

The report, the page, notebooks and scripts import it; it imports `reading` and `tables`. Begin with `plots.py`.
"""
