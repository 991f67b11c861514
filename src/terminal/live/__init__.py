"""The live screen of `watch`: what it shows, the keys, and the thread that reads the files.

Only `src/commands` imports this folder, inside functions, since it loads rich. Begin with `watch.py`.
"""
