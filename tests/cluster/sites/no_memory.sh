# shellcheck shell=bash disable=SC2154 # up.sh, which sources this, assigns folder, host and base
# A site without GPUs that gives memory by CPUs: its submit plugin refuses jobs that ask for memory, and jobs that do
# not name an account.

configure_site() {
    sed -i -e 's/CR_Core_Memory/CR_Core/' -e '/^DefMemPerCPU/d' -e '/^GresTypes/d' -e 's/ Gres=[^ ]*//' \
        -e 's/ Feature=[^ ]*//' -e '/^PartitionName/d' "$SLURM_CONF"
    cat >>"$SLURM_CONF" <<EOS
JobSubmitPlugins=lua
PartitionName=batch Nodes=ALL Default=YES MaxTime=1:00:00 State=UP
PartitionName=long Nodes=node[1-2] MaxTime=7-00:00:00 State=DRAIN
EOS
    rm "$folder/gres.conf"
    cat >"$folder/job_submit.lua" <<EOS
function slurm_job_submit(job, partitions, user)
    if job.pn_min_memory ~= slurm.NO_VAL64 and job.pn_min_memory ~= nil then
        slurm.log_user("Memory is given by the number of CPUs here: remove --mem")
        return slurm.ERROR
    end
    if job.account == nil then
        slurm.log_user("Please name the account that pays, by --account")
        return slurm.ERROR
    end
    return slurm.SUCCESS
end
function slurm_job_modify(job, record, partitions, user)
    return slurm.SUCCESS
end
return slurm.SUCCESS
EOS
}

add_accounts() {
    true
}
