"""Another machine, reached by ssh and rsync: run commands, submit and download results there.

Imports `system`, `spec` and `batch`. Begin with `ssh.py`, then `remote_command.py`.
"""
