# shellcheck shell=bash
# Use this node's copy of an environment that `python experiments.py pack-env` has packed. activate.sh sources this file;
# docs/cluster.md describes packed environments.
#
# ENVIRONMENT.packed/current has a line each for the name of the image, its size in KiB when unpacked, and the times of
# the files that the further lines name, relative to the environment: it has changed if one of these times differs.
#
# The processes of a user on a node share a folder with mode 0700 on a local disk. Its file `making` is locked while one
# of them mounts, unpacks or removes copies. A copy is in use while its file COPY.lock is locked, by the shell that
# sourced this file and the program that the shell becomes. Such locks end with their process, however it ends.

# use_packed ENVIRONMENT…: put the copy of the first packed environment on the PATH. If that is not possible, print the
# reason and return 1; without a line if none is packed. $GRIDIRON_PACKED is mount, unpack or off; by default copies are
# used in Slurm jobs, and mounted where a node can do that.
use_packed() {
    local environment modes image kib times watched problem='' copy=''
    for environment in "$@"; do [[ ! -r $environment.packed/current ]] || break; done
    modes=${GRIDIRON_PACKED:-${SLURM_JOB_ID:+mount unpack}}
    [[ -r $environment.packed/current && -n $modes && $modes != off ]] || return 1
    { read -r image && read -r kib && read -r times && mapfile -t watched; } <"$environment.packed/current"
    [[ $image == *.sqfs || $modes != 'mount unpack' ]] || modes=unpack
    if [[ ! $modes =~ ^(mount|unpack|mount unpack)$ ]]; then
        problem="GRIDIRON_PACKED is '$modes', not mount, unpack or off"
    elif [[ ! -O $environment.packed && $(stat --format=%u -- "$environment.packed") != \
        $(stat --format=%u -- "$environment") ]]; then
        problem="$environment.packed belongs to another user"
    elif ((${SLURM_JOB_NUM_NODES:-1} > 1)); then
        problem='packed environments are for jobs on one node'
    elif [[ $(cd -- "$environment" && stat --format=%Y -- "${watched[@]}" 2>/dev/null | tr '\n' ' ') != "$times " ]]; then
        problem="it has changed since it was packed: \`python experiments.py pack-env\` packs it again"
    else
        local mode
        for mode in $modes; do packed_copy "$mode" && break; done
    fi
    if [[ -z $copy ]]; then
        echo "note: $environment is used from where it is: ${problem#; }" >&2
        return 1
    fi
    PATH=$copy/bin:$PATH
    [[ ! -d $copy/conda-meta ]] || packed_conda
}

# packed_copy MODE: set `copy` to a copy that this shell has locked, or add to `problem` why there is none
packed_copy() {
    local base folder making lock boot image_path=$environment.packed/$image name=${image%%.*}
    boot=$(</proc/sys/kernel/random/boot_id) # what a crash of the node left is not used
    local bases=(${SLURM_TMPDIR:+"$SLURM_TMPDIR"} ${TMPDIR:+"$TMPDIR"} /tmp)
    [[ -z ${GRIDIRON_LOCAL:-} ]] || bases=("$GRIDIRON_LOCAL")
    for base in "${bases[@]}"; do
        if ! packed_folder "$1" || ! exec {making}>"$folder/making"; then continue; fi
        if flock --timeout "${GRIDIRON_UNPACK_TIMEOUT:-900}" "$making"; then
            packed_clean
            copy=$folder/$name.$boot
            [[ $1 == unpack ]] || copy=$(mktemp --directory "$folder/$name.mount.XXXXXX")
            exec {lock}>"$copy.lock"
            flock --shared "$lock" # only the holder of `making` locks it exclusively
            touch "$copy.lock"
            if [[ -x $copy/bin/python ]] || "packed_$1"; then
                exec {making}>&-
                return
            fi
            rm --force -- "$copy.lock"
            exec {lock}>&-
            copy=''
        else
            problem+="; $folder is locked: another process has been unpacking for too long"
        fi
        exec {making}>&-
    done
    return 1
}

# packed_folder MODE: set `folder` to this user's own folder in $base, or add to `problem`. Others can write to /tmp.
packed_folder() {
    local kind owner permissions local_disks='ext2/ext3|xfs|btrfs|zfs|f2fs|jfs|reiserfs|overlayfs'
    folder=$base/gridiron-$EUID
    read -r kind < <(stat --file-system --format=%T -- "$base" 2>&1)
    read -r owner permissions < <(stat --dereference --format='%u %a' -- "$base" 2>/dev/null)
    [[ $1 == unpack ]] || local_disks+='|tmpfs|ramfs'
    if [[ ! -d $base ]]; then
        problem+="; there is no folder $base"
    elif [[ -z ${GRIDIRON_LOCAL:-} && ! $kind =~ ^($local_disks)$ ]]; then
        problem+="; $base is not on a local disk ($kind)"
    elif [[ ! $owner =~ ^(0|$EUID)$ || ! -k $base ]] && ((8#${permissions:-777} & 8#22)); then
        problem+="; others can replace folders in $base"
    elif mkdir --mode=700 -- "$folder" 2>/dev/null
        [[ $(stat --format='%u %a %F' -- "$folder" 2>&1) != "$EUID 700 directory" ]]; then
        problem+="; $folder is not a folder of your own with mode 700"
    else
        return 0
    fi
    return 1
}

# Mount the image at $copy, by a process that ignores the signals that Slurm sends to a whole job: the program needs it
# until it has saved its state.
packed_mount() {
    local program error=''
    for program in squashfuse_ll squashfuse mount ''; do
        command -v "$program" >/dev/null && [[ $program != mount || $EUID == 0 ]] && break
    done
    case $program in
        '') error='neither squashfuse is on this node, nor are you root' ;;
        mount) error=$(mount -t squashfs -o loop,ro,nosuid,nodev -- "$image_path" "$copy" 2>&1) ;;
        *)
            error=$(
                exec {making}>&- {lock}>&-
                trap '' HUP INT TERM USR1 USR2
                exec "$program" -o nosuid,nodev "$image_path" "$copy" 2>&1 </dev/null
            )
            ;;
    esac
    "$copy/bin/python" -S -c '' 2>/dev/null && return
    packed_unmount "$copy"
    problem+="; $image cannot be mounted (${error##*$'\n'})"
    return 1
}

# Unpack the image into $copy, which appears when it is complete.
packed_unpack() {
    local part=$copy.part free error
    free=$(df --output=avail --block-size=1K -- "$folder" | tail --lines=1)
    if ((free < kib + kib / 10)); then
        problem+="; $base has $((free / 1024)) MiB free, and $((kib * 11 / 10240)) are needed"
        return 1
    fi
    error=$(
        set +e
        mkdir -- "$part"
        case $image in
            *.sqfs) unsquashfs -force -quiet -no-progress -no-xattrs -dest "$part" "$image_path" ;;
            *.tar.zst) tar --extract --zstd --no-same-owner --file="$image_path" --directory="$part" ;;
            *) tar --extract --gzip --no-same-owner --file="$image_path" --directory="$part" ;;
        esac 2>&1 >/dev/null </dev/null && "$part/bin/python" -S -c '' 2>&1 && mv --no-target-directory -- "$part" "$copy"
    ) && return
    rm --recursive --force -- "$part"
    problem+="; $image cannot be unpacked in $folder (${error##*$'\n'})"
    return 1
}

# Remove what nobody uses: mounts, other versions of this environment, those of others after a day, and parts of copies.
packed_clean() {
    local lock old other
    for lock in "$folder"/*.lock; do
        other=${lock%.lock}
        [[ $other != "$folder/$name.$boot" && ($other == *.mount.* || $other == "$folder/${name%-*}-"* ||
            -n $(find "$lock" -mmin +1440 2>/dev/null)) ]] || continue
        exec {old}<"$lock" || continue
        if flock --exclusive --nonblock "$old"; then
            if [[ $other == *.mount.* ]]; then packed_unmount "$other"; else rm --recursive --force -- "$other"; fi
            [[ -d $other ]] || rm --force -- "$lock"
        fi
        exec {old}<&-
    done
    rm --recursive --force -- "$folder"/*.part
}

# Unmount a copy, unless a program has files of it open, and remove the empty folder.
packed_unmount() {
    fusermount3 -u -- "$1" || fusermount -u -- "$1" || umount -- "$1"
    rmdir -- "$1"
} 2>/dev/null

# What `conda activate` would do, without starting conda
packed_conda() {
    local script
    export CONDA_PREFIX=$copy
    set +u # such scripts read unset variables
    for script in "$copy"/etc/conda/activate.d/*.sh; do
        # shellcheck source=/dev/null
        [[ ! -r $script ]] || source "$script"
    done
    set -u
}
