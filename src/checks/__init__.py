"""Names and combinations of options that a config may have, checked without importing torch.

Imports only `src.errors` and `src.io`; `src.config` imports it. Begin with `registered_names.py`.
"""
