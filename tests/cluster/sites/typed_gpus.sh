# shellcheck shell=bash disable=SC2154 # up.sh, which sources this, assigns folder, host and base
# A site with accounts that jobs must have, QOS, GPUs with types and no features, and a partition of another group.

configure_site() {
    sed -i -e '/^NodeName=node/d' -e '/^PartitionName/d' "$SLURM_CONF"
    cat >>"$SLURM_CONF" <<EOS
AccountingStorageEnforce=associations,limits,qos
NodeName=node[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 2))-$((base + 3)) Gres=gpu:a100:2 CPUs=64 RealMemory=500000
NodeName=node3 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 4)) Gres=gpu:h100:2 CPUs=96 RealMemory=1000000
NodeName=node4 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 5)) Gres= CPUs=32 RealMemory=64000
PartitionName=DEFAULT State=UP
PartitionName=short Nodes=node4 Default=YES MaxTime=2:00:00
PartitionName=gpu Nodes=node[1-3] MaxTime=2-00:00:00 AllowQos=gpu
PartitionName=physics Nodes=ALL MaxTime=INFINITE AllowAccounts=physics
PartitionName=hidden Nodes=node[1-4] MaxTime=INFINITE Hidden=YES DenyAccounts=ml,teaching,root
EOS
    printf 'NodeName=node[1-2] Name=gpu Type=a100 File=%s/gpu[0-1]\nNodeName=node3 Name=gpu Type=h100 File=%s/gpu[0-1]\n' \
        "$folder" "$folder" >"$folder/gres.conf"
}

add_accounts() {
    sacctmgr --immediate add qos gpu
    sacctmgr --immediate add account ml,teaching,physics
    sacctmgr --immediate add user root account=ml,teaching
    sacctmgr --immediate modify user root set defaultaccount=ml
    sacctmgr --immediate modify user root set qos+=gpu
    sacctmgr --immediate delete user root account=root
}
