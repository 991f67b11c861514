"""Execute a plan: check it, write the batch, call sbatch or start local workers, and print what to do next.

The top folder of `src/submission`: may import all others. Begin with `execute.py`.
"""
