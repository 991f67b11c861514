"""Files, YAML, downloads and facts about the machine. Imports only `src.errors`. Begin with `files.py`."""
