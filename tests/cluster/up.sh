#!/usr/bin/env bash
# Start a real four-node Slurm on this machine, for tests: with accounting, fake GPUs, two partitions whose jobs are
# preempted, and one whose jobs preempt.
#
#   tests/cluster/up.sh [FOLDER]        then: export SLURM_CONF=FOLDER/slurm.conf
#
# With LAG=1 in the environment, each node sees changes in FOLDER/shared up to 30 seconds late ($LAG_SECONDS), as on a
# slow network file system; this requires bindfs and /dev/fuse.
#
# With SITE=NAME, it is a site of another kind: sites/NAME.sh changes the configuration (configure_site) and, where there
# is accounting, adds accounts (add_accounts).
#
# Requires root and Debian's slurm-wlm, slurmdbd, munge and mariadb-server, but neither systemd nor files in /etc: every
# daemon has its socket, key and logs in FOLDER, and listens on a free port. A running cluster in FOLDER is kept; a broken
# one is removed first. Jobs run as root, so use it only on a machine that nobody else uses.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(realpath -m "${1:-${TMPDIR:-/tmp}/gridiron-slurm}")
host=${HOSTNAME%%.*}
nodes=4
lag=${LAG:+${LAG_SECONDS:-30}}

export SLURM_CONF=$folder/slurm.conf
export MYSQL_UNIX_PORT=$folder/mariadb.socket

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# wait_for NAME COMMAND…: wait until COMMAND succeeds, at most a minute
wait_for() {
    local name=$1 end=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= end)); then
            tail -n 5 "$folder/log/$name.out" >&2
            fail "$name did not start in 60 s; see $folder/log"
        fi
        sleep 0.05
    done
}

# start NAME COMMAND…: start a daemon in a session of its own, so that Ctrl-C in the terminal does not reach it. down.sh
# finds the daemons by the variable, which neither jobs nor the shells that use the cluster have.
start() {
    local name=$1
    shift
    GRIDIRON_CLUSTER_DAEMON=$folder setsid "$@" >"$folder/log/$name.out" 2>&1 </dev/null &
}

all_nodes_answer() {
    [[ $(timeout 3 sinfo --noheader --responding --states=idle,alloc,mix --format=%D) == "$nodes" ]]
}

has_accounting() {
    grep --quiet '^AccountingStorageType=' "$SLURM_CONF"
}

is_up() {
    [[ -f $SLURM_CONF && (-z $lag || $(cat "$folder/lag" 2>/dev/null) == "$lag") ]] &&
        { ! has_accounting || timeout 3 sacctmgr --noheader list cluster >/dev/null 2>&1; } && all_nodes_answer 2>/dev/null
}

# Print the first of six consecutive free ports, below the range of ephemeral ports.
free_ports() {
    local base port
    for base in $(seq $((20000 + $$ % 1000 * 10)) 10 32000); do
        for port in $(seq "$base" $((base + nodes + 1))); do
            (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue 2
        done
        echo "$base"
        return
    done
    fail "no six consecutive free ports"
}

write_configuration() { # sets `base`, the first port
    local listen='# on every address'
    base=$(free_ports)
    # Slurm listens on every address, or on that of the host name: on loopback alone where the host name resolves to it
    if getent ahostsv4 "$HOSTNAME" | grep --quiet '^127\.0\.0\.1 '; then
        listen=CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
    fi
    cat >"$folder/slurmdbd.conf" <<EOF
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$base
$listen
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
LogFile=$folder/log/slurmdbd.log
PidFile=$folder/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
EOF
    chmod 600 "$folder/slurmdbd.conf"
    cat >"$SLURM_CONF" <<EOF
ClusterName=gridiron
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$((base + 1))
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
$listen
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmctldLogFile=$folder/log/slurmctld.log
StateSaveLocation=$folder/state
SlurmdPidFile=$folder/run/slurmd-%n.pid
SlurmdLogFile=$folder/log/slurmd-%n.log
SlurmdSpoolDir=$folder/spool/%n
# no MPI and no cgroups
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
# nodes have the resources configured below, whatever this machine has; nodes that were down return by themselves
SlurmdParameters=config_overrides
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
GresTypes=gpu
# short scheduling intervals, but finished jobs stay in squeue as long as on real clusters
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=2,defer_batch
MinJobAge=300
KillWait=5
MessageTimeout=5
SlurmdTimeout=10
MaxArraySize=1001
MaxJobCount=200000
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$base
AccountingStoragePass=$folder/munge.socket
AccountingStoreFlags=job_comment
NodeName=DEFAULT CPUs=8 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
NodeName=node[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 2))-$((base + 3)) Feature=geforce_rtx_2080
NodeName=node3 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 4)) Feature=tesla_v100
NodeName=node4 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 5)) Feature=geforce_rtx_3090,a5000
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP
PartitionName=cpu-killable Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=killable PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=owner PriorityTier=10 PreemptMode=OFF
EOF
    printf 'Name=gpu File=%s/gpu[0-1]\n' "$folder" >"$folder/gres.conf"
    printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' >"$folder/cgroup.conf"
    ln -s /dev/null "$folder/gpu0" # Slurm requires device files, but only counts them
    ln -s /dev/null "$folder/gpu1"
}

start_munge() {
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    start munged munged --foreground --socket="$folder/munge.socket" --key-file="$folder/munge.key" \
        --pid-file="$folder/run/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed"
}

start_database() {
    mariadb-install-db --no-defaults --user=root --datadir="$folder/mariadb" --skip-test-db \
        >"$folder/log/mariadb-install.out" 2>&1 ||
        fail "cannot create the database: $(grep --ignore-case --max-count=3 error "$folder/log/mariadb-install.out")"
    start mariadbd mariadbd --no-defaults --user=root --datadir="$folder/mariadb" --socket="$MYSQL_UNIX_PORT" \
        --pid-file="$folder/run/mariadbd.pid" --skip-networking --innodb-flush-log-at-trx-commit=0
}

if ((EUID != 0)); then fail "the daemons of the cluster must run as root"; fi
for program in munged mariadbd mariadb-install-db slurmdbd slurmctld slurmd; do
    command -v "$program" >/dev/null || fail "$program not found: apt-get install slurm-wlm slurmdbd munge mariadb-server"
done
if [[ -n $lag ]] && ! { command -v bindfs >/dev/null && [[ -w /dev/fuse ]]; }; then
    fail "LAG=1 needs /dev/fuse, and bindfs: apt-get install bindfs"
fi
if ((${#MYSQL_UNIX_PORT} > 100)); then fail "the path of $folder is too long for a socket (100 bytes)"; fi

if ! is_up; then
    "$here/down.sh" "$folder"
    mkdir -p "$folder"/{log,run,state,mariadb,shared}
    if [[ -n $lag ]]; then printf '%s\n' "$lag" >"$folder/lag"; fi
    chmod 755 "$folder" # munged requires that everyone can access its socket
    for node in $(seq "$nodes"); do mkdir -p "$folder/spool/node$node"; done
    write_configuration
    if [[ -n ${SITE:-} ]]; then
        # shellcheck source=/dev/null
        source "$here/sites/$SITE.sh"
        configure_site
    fi
    start_munge
    if has_accounting; then start_database; fi
    wait_for munged munge --no-input --socket="$folder/munge.socket"
    if has_accounting; then
        wait_for mariadbd mariadb-admin --no-defaults ping
        start slurmdbd slurmdbd -D
        wait_for slurmdbd sacctmgr --noheader list cluster
        sacctmgr --immediate add cluster gridiron >/dev/null
        if [[ -n ${SITE:-} ]]; then add_accounts >/dev/null; fi
    fi
    start slurmctld slurmctld -D
    for node in $(seq "$nodes"); do start "slurmd-node$node" "$here/node.sh" "$folder" "node$node"; done
    wait_for slurmctld all_nodes_answer
fi
printf 'export SLURM_CONF=%s\n' "$SLURM_CONF"
