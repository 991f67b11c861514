"""A job spec becomes a grid, run folders, and Slurm jobs or local workers. Never imports torch, numpy or pandas."""
