#!/usr/bin/env bash
# A real four-node Slurm on this machine, for tests: accounting, fake GPUs, partitions that are preempted and one that
# preempts.
#
#   tests/cluster/up.sh [FOLDER]        then: export SLURM_CONF=FOLDER/slurm.conf
#
# Needs root and Debian's slurm-wlm, slurmdbd, munge and mariadb-server; no systemd, and nothing of /etc: every daemon
# has its socket, key and logs in FOLDER, and ports that were free. A cluster that answers there is left as it is;
# what is left of one that does not is removed first. Jobs run as root, so keep it on a machine of your own.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(realpath -m "${1:-${TMPDIR:-/tmp}/gridiron-slurm}")
host=${HOSTNAME%%.*}
nodes=4

export SLURM_CONF=$folder/slurm.conf
export MYSQL_UNIX_PORT=$folder/mariadb.socket

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# wait_for NAME COMMAND…: until COMMAND says that the daemon works, at most a minute
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

# start NAME COMMAND…: in a session of its own, so that Ctrl-C in the terminal does not reach it. The variable is what
# down.sh knows our daemons by: neither jobs nor the shells that use the cluster have it.
start() {
    local name=$1
    shift
    GRIDIRON_CLUSTER_DAEMON=$folder setsid "$@" >"$folder/log/$name.out" 2>&1 </dev/null &
}

all_nodes_answer() {
    [[ $(timeout 3 sinfo --noheader --responding --states=idle,alloc,mix --format=%D) == "$nodes" ]]
}

is_up() {
    [[ -f $SLURM_CONF ]] && timeout 3 sacctmgr --noheader list cluster >/dev/null 2>&1 && all_nodes_answer 2>/dev/null
}

# The first of six ports in a row that nothing listens on; below the range that the kernel gives to clients.
free_ports() {
    local base port
    for base in $(seq $((20000 + $$ % 1000 * 10)) 10 32000); do
        for port in $(seq "$base" $((base + nodes + 1))); do
            (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue 2
        done
        echo "$base"
        return
    done
    fail "no six free ports in a row"
}

write_configuration() {
    local base listen='# on every address'
    base=$(free_ports)
    # Slurm listens everywhere, or where this machine's name points: on loopback alone wherever that is the same
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
# a job's output goes where the job says, and no cgroup is needed or touched
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
# nodes are as large as they say, whatever this machine is; a node that was gone comes back by itself
SlurmdParameters=config_overrides
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
GresTypes=gpu
# short waits, but a finished job stays known to squeue as long as on real clusters
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
    ln -s /dev/null "$folder/gpu0" # Slurm wants devices; it only counts and numbers them
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
        fail "no database could be made: $(grep --ignore-case --max-count=3 error "$folder/log/mariadb-install.out")"
    start mariadbd mariadbd --no-defaults --user=root --datadir="$folder/mariadb" --socket="$MYSQL_UNIX_PORT" \
        --pid-file="$folder/run/mariadbd.pid" --skip-networking --innodb-flush-log-at-trx-commit=0
}

if ((EUID != 0)); then fail "the cluster's daemons need root"; fi
for program in munged mariadbd mariadb-install-db slurmdbd slurmctld slurmd; do
    command -v "$program" >/dev/null || fail "no $program; apt-get install slurm-wlm slurmdbd munge mariadb-server"
done
if ((${#MYSQL_UNIX_PORT} > 100)); then fail "the path of $folder is too long for a socket (100 bytes)"; fi

if ! is_up; then
    "$here/down.sh" "$folder"
    mkdir -p "$folder"/{log,run,state,mariadb}
    chmod 755 "$folder" # munged insists that everyone can reach its socket
    for node in $(seq "$nodes"); do mkdir -p "$folder/spool/node$node"; done
    write_configuration
    start_munge
    start_database
    wait_for mariadbd mariadb-admin --no-defaults ping
    wait_for munged munge --no-input --socket="$folder/munge.socket"
    start slurmdbd slurmdbd -D
    wait_for slurmdbd sacctmgr --noheader list cluster
    sacctmgr --immediate add cluster gridiron >/dev/null
    start slurmctld slurmctld -D
    for node in $(seq "$nodes"); do start "slurmd-node$node" slurmd -D -N "node$node"; done
    wait_for slurmctld all_nodes_answer
fi
printf 'export SLURM_CONF=%s\n' "$SLURM_CONF"
