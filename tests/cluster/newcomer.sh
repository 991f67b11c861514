#!/usr/bin/env bash
# Measure the way of a new user from nothing to a first grid on a cluster: seconds of each command, and their number.
#
#   tests/cluster/newcomer.sh setup|by-hand [SITE]
#
# SITE is a site in sites/, by default typed_gpus; it starts in a temporary folder, as does a clone of this repository in
# a home folder without caches. `setup` uses the newest commit; `by-hand` the last one before `experiments.py setup`,
# with the commands and edits of its documentation, by someone who knows what to edit: reading and thinking take no time
# here. The environment is installed anew, about 9 GB. Run it on a quiet machine.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
way=${1:-setup} site=${2:-typed_gpus}
before_setup=0a399e6c
folder=$(mktemp -d /tmp/gridiron-newcomer-XXXX)
commands=0
chmod 755 "$folder" # munged requires that everyone can access its socket
trap '"$here/down.sh" "$folder/cluster"; rm -rf "$folder"' EXIT

# step COMMAND…: run a command of the user in the clone, and print how long it took
step() {
    local start=${EPOCHREALTIME/./}
    if ! "$@" >"$folder/output" 2>&1 </dev/null; then
        cat "$folder/output" >&2
        exit 1
    fi
    printf '%7d.%d s  %s\n' $(((${EPOCHREALTIME/./} - start) / 1000000)) \
        $(((${EPOCHREALTIME/./} - start) / 100000 % 10)) "${*//"$folder/"/}"
    commands=$((commands + 1))
}

case $way in
    setup | by-hand) ;;
    *)
        echo "error: unknown way '$way'; allowed: setup, by-hand" >&2
        exit 2
        ;;
esac
SITE=$site "$here/up.sh" "$folder/cluster" >/dev/null
mkdir "$folder/home"
pip_settings=~/.config/pip/pip.conf
[[ ! -r $pip_settings ]] || install -D "$pip_settings" "$folder/home/.config/pip/pip.conf" # such as the index to use
export SLURM_CONF=$folder/cluster/slurm.conf HOME=$folder/home
unset VIRTUAL_ENV SCRATCH WORK PIP_CACHE_DIR UV_CACHE_DIR XDG_CACHE_HOME
cd "$HOME"
start=$SECONDS
step git clone --quiet "$here/../.." gridiron
cd gridiron
[[ $way == setup ]] || git checkout --quiet "$before_setup"
step make environment
if [[ $way == setup ]]; then
    step .venv/bin/python experiments.py setup --yes
    cat "$folder/output"
else
    step sinfo -o '%P %l %D %c %m %G %f'
    step sacctmgr show associations user="$(id -un)" format=account,partition,qos
    partition=$(sinfo --noheader -o '%P' | sed -n 's/\*$//p') # the default one
    limit=$(sinfo --noheader -p "$partition" -o '%l')
    step sed -i -e "s/--partition=.*/--partition=$partition/" -e "s/--time=.*/--time=$limit/" submit_cpu.sh
    step .venv/bin/python submit_multiple.py jobs/digits-quickstart.yaml -s submit_cpu.sh -d
fi
step .venv/bin/python submit_multiple.py jobs/digits-quickstart.yaml -s submit_cpu.sh --yes
printf '%9d s  %d commands until the first grid is submitted\n' $((SECONDS - start)) "$commands"
step .venv/bin/python experiments.py wait jobs/digits-quickstart.yaml
printf '%9d s  until its 24 runs are done\n' $((SECONDS - start))
