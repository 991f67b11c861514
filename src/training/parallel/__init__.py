"""Several processes that train one model: process group, data shards, synchronized batch norm.

src/training, its folders `steps` and `output`, and train.py import it; it imports `setup`. Begin with `distributed.py`.
"""
