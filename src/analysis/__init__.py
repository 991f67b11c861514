"""From run folders to answers: filters, tables, plots, reports and comparisons. Never loads torch.

Commands, notebooks and scripts import it; nothing else in src does. Begin with `report.py`. Subfolders: `reading`
(files to frames), `tables` (frames to tables), `plotting` (frames to figures) and `page` (all of it in a browser).
"""
