"""Several processes that train one model: process group, data shards, synchronised batch norm.

Imports `setup`. Begin with `distributed.py`.
"""
