# shellcheck shell=bash disable=SC2154 # up.sh, which sources this, assigns folder, host and base
# A small site: no accounting, one partition, no GPUs, no preemption, and memory that Slurm does not track.

configure_site() {
    sed -i -e '/^AccountingSto/d' -e '/^JobAcctGather/d' -e '/^Preempt/d' -e 's/CR_Core_Memory/CR_Core/' \
        -e '/^DefMemPerCPU/d' -e '/^GresTypes/d' -e 's/ Gres=[^ ]*//' -e 's/ Feature=[^ ]*//' \
        -e '/^PartitionName/d' "$SLURM_CONF"
    echo 'PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP' >>"$SLURM_CONF"
    rm "$folder/gres.conf"
}
