"""From run folders to answers: filters, tables, plots, reports and comparisons. Never loads torch.

Commands, notebooks and scripts import it; nothing else in src does. Begin with `report.py`, which uses all three
subfolders: `reading` (files to frames), `tables` (frames to tables) and `plotting` (frames to figures).
"""
