"""Sort the messages of sbatch by what helps: fix the request, wait for room, wait for Slurm, or look for the job."""
from __future__ import annotations

import re

# The kinds of errors
PERMANENT = "permanent"  # a mistake of the user: never accepted as it is
LIMIT = "limit"  # a limit on the number of jobs or on their total resources: accepted once other jobs have ended
UNAVAILABLE = "unavailable"  # not accepted now, and perhaps later
AMBIGUOUS = "ambiguous"  # the connection broke after it was made, so the controller may have accepted the job
UNKNOWN = "unknown"  # a message that none of the patterns matches

QUEUE_FULL = "temporarily unable to accept job|job queue full|resource temporarily unavailable|create job record, try"
PARTITION_CLOSED = "partition not available|partition is (down|inactive)|partition state"
NODES_AWAY = (r"required node not available|nodes required for job are down|requested nodes are busy|"
              "unable to allocate resources: requested nodes|configuration not available now")
NODES_TOO_SMALL = "node configuration is not available"

# Patterns of messages by kind; the first match decides. A refusal often has a second line that is more general.
_PATTERNS = (
    (AMBIGUOUS, r"socket timed out|unexpected message received|message (receive|send) failure|"
     r"\((receive|send) failure\)|shutdown failure|zero bytes were transmitted|connection reset by peer|broken pipe|"
     "connection timed out|not connected|missing socket|failed to send entire message|zero length message|"
     "insane message length|protocol authentication error"),
    (LIMIT, r"maxsubmitjob|assocmaxsubmit|qosmaxsubmit|maxjobsperaccount|(assoc|qos)grp\w*limit|"
     r"(assoc|qos)grpsubmit\w*"),
    (UNAVAILABLE, rf"unable to contact slurm controller|connection refused|communication connection failure|"
     rf"no route to host|network is unreachable|in standby mode|i/o error writing script|database connection is down|"
     rf"unable to initialize authentication|munge encode failed|authentication credential|{QUEUE_FULL}|"
     rf"{PARTITION_CLOSED}|{NODES_AWAY}"),
    (PERMANENT, rf"configuration source|invalid|{NODES_TOO_SMALL}|memory specification|accounting/qos policy|account|"
     r"qos|line breaks|does not look like a batch script|batch script is empty|time limit|unrecognized option|"
     r"unable to open file|no such file|access.*denied|permission denied|dependency problem|requires an argument|"
     r"script size|must specify|pending job modification|not on the path"),
)


def classify(message: str) -> str:
    """Return the kind of a message of sbatch."""
    return next((kind for kind, pattern in _PATTERNS if re.search(pattern, message, re.IGNORECASE)), UNKNOWN)


def matches(pattern: str, message: str) -> bool:
    """Return whether a message contains a pattern of this module."""
    return re.search(pattern, message, re.IGNORECASE) is not None
