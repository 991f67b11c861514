"""From data frames to tables: rankings, summaries over seeds, queries.

Plots, reports and the commands may import it; it imports `reading`. Begin with `tables.py`.
"""
