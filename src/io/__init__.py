"""Files, YAML, downloads and facts about the machine.

Everything may import it; it imports only `src.errors`. Begin with `files.py`, then `yaml_io.py`.
"""
