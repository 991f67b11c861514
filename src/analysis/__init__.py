"""From run folders to answers: filters, tables, plots, reports and comparisons. Never loads torch.

The commands, `src/dashboard`, notebooks and scripts import it. Begin with `report.py`. Subfolders: `reading` (files to
frames), `tables` (frames to tables), `plotting` (frames to figures) and `page` (all of it in a browser).
"""
