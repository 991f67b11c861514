"""Views for a terminal: `status` fitted to its width, the live screen of `watch`, the footers of `wait` and `logs -f`.

Only `src/commands` imports this folder, inside functions, and only a process that lives long loads rich. Begin with
`run_columns.py` for tables; `live` has the live screen.
"""
