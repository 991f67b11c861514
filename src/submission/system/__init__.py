"""The machine that a command runs on: processes, signals, terminal, GPUs, detached commands. Knows no batches.

Every other folder of `src/submission` may import it. Begin with `process.py`.
"""
