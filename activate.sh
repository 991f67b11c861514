# shellcheck shell=bash
# Put the project's Python on the PATH. Every submit script sources this file in the project's folder; `python
# experiments.py setup` adapts it to a cluster. It uses the environment of `make environment` if there is one, else a
# conda environment (environment.yml). Jobs use the node's copy of that environment if it was packed (`python
# experiments.py pack-env`) and the node can make one.
environment_folder=.venv
conda_folder=${CONDA_FOLDER:-$HOME/miniconda3}
conda_environment=${CONDA_ENVIRONMENT:-gridiron}
source ./tools/packed_env.sh

if [[ -x $environment_folder/bin/python ]]; then
    PATH=$(realpath --no-symlinks -- "$environment_folder")/bin:$PATH
    use_packed "$(realpath -- "$environment_folder")" || true
elif use_packed "$conda_environment" "$conda_folder/envs/$conda_environment"; then
    :
elif [[ -r $conda_folder/etc/profile.d/conda.sh ]]; then
    shell_options=$-
    set +u # conda's scripts read unset variables
    # shellcheck source=/dev/null
    source "$conda_folder/etc/profile.d/conda.sh"
    conda activate "$conda_environment"
    [[ $shell_options != *u* ]] || set -u
else
    echo "error: $PWD: no Python in $environment_folder and no conda in $conda_folder; run 'make environment'," \
        "or edit activate.sh" >&2
    exit 2
fi
