"""Another machine, reached by ssh and rsync: run commands, submit and download results there.

Only entry points and commands import it; it imports `system`, `batch` and `packing`. Begin with `ssh.py`, then
`remote_command.py`.
"""
