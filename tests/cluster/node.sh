#!/usr/bin/env bash
# Run the slurmd of one node of the cluster in FOLDER, in the foreground.
#
#   tests/cluster/node.sh FOLDER NODE
#
# If FOLDER/lag contains a number of seconds, the node sees FOLDER/shared through a FUSE mirror of its own, in a mount
# namespace of its own: names that others create or remove, and sizes of files, appear there late, as on NFS.
set -euo pipefail

folder=$1 node=$2
if [[ -s $folder/lag && ${3-} != mirror ]]; then
    exec unshare --mount "$0" "$folder" "$node" mirror
fi
if [[ ${3-} == mirror ]]; then
    seconds=$(<"$folder/lag")
    bindfs -o "entry_timeout=$seconds,negative_timeout=$seconds,attr_timeout=$(((seconds + 5) / 6))" \
        "$folder/shared" "$folder/shared"
fi
exec slurmd -D -N "$node"
