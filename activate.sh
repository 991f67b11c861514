# shellcheck shell=bash
# Put the project's Python on the PATH. Every submit script sources this file in the project's folder; adapt it once.
# It uses the .venv that `make` builds if there is one, else a conda environment (environment.yml). Jobs use the node's
# copy of that environment if it was packed (`python experiments.py pack-env`) and the node can make one.
conda_folder=${CONDA_FOLDER:-$HOME/miniconda3}
conda_environment=${CONDA_ENVIRONMENT:-gridiron}
source ./tools/packed_env.sh

if [[ -x .venv/bin/python ]]; then
    PATH=$PWD/.venv/bin:$PATH
    use_packed "$(realpath .venv)" || true
elif use_packed "$conda_environment" "$conda_folder/envs/$conda_environment"; then
    :
elif [[ -r $conda_folder/etc/profile.d/conda.sh ]]; then
    set +u # conda's scripts read unset variables
    # shellcheck source=/dev/null
    source "$conda_folder/etc/profile.d/conda.sh"
    conda activate "$conda_environment"
    set -u
else
    echo "error: $PWD: no .venv here and no conda in $conda_folder; run 'make environment', or edit activate.sh" >&2
    exit 2
fi
