"""The live page: a server on the loopback interface that sends changes of batches, found from their files.

Only the commands import it. Begin with `server.py`; `live.py` finds the changes.
"""
