"""From data frames to tables: rankings, summaries over seeds, queries. Imports `reading`. Begin with `tables.py`."""
