"""Pack a Python environment, and data folders, into one compressed image, of which each node makes a local copy.

The commands, `remote` and `doctor` import it; it imports `system` and `slurm`. Begin with `pack.py`. On a node,
tools/packed_env.sh uses the image.
"""
