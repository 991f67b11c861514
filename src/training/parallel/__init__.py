"""Several processes that train one model: process group, data shards, synchronized batch norm.

Imports `setup`. Begin with `distributed.py`.
"""
