"""What `experiments.py setup` finds out about a cluster, and the submit scripts that it writes for it.

Only the commands import it; it imports `system` to `status`. Begin with `site.py`, what Slurm says of the cluster; then
`scripts.py`, what is written from it; `files_to_write.py` protects what somebody has edited.
"""
