"""Facts about a cluster for `experiments.py setup`, and the submit scripts and activate.sh that it writes for it.

Only the commands import it; it imports `system` to `status`. Begin with `site.py`, which reads partitions, nodes and
accounts; then `scripts.py` and `job_python.py`, which write scripts; `files_to_write.py` protects edited files.
"""
