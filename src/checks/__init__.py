"""Names and combinations of options that a config may have, checked without importing torch.

`src.config` imports it, and whoever needs a parsed option; it imports only `src.errors` and `src.io`. Begin with
`registered_names.py`.
"""
