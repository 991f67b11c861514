"""Commands that check and prepare a machine: doctor, pack-env, push-env, prefetch, probe."""
from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from src.commands.command_output import Output
from src.commands.common import PROJECT, add_yes, confirm
from src.config import Config, check_parameters
from src.errors import JobSpecError, PackError, experiments_command
from src.submission.batch import batch_folder

if TYPE_CHECKING:
    from src.commands import documents

_ALL_VALUES = 1_000  # random points of a job spec: enough to draw each value of a list of choices at least once


def add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=doctor)
    parser.add_argument("--deep", action="store_true", help="also load torch and check that it finds the GPUs")


def add_push_env(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=push_env)
    parser.add_argument("on_host", metavar="HOST", help="a host of hosts.toml, or of the ssh configuration")
    add_yes(parser)


def add_pack_env(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=pack_env)
    parser.add_argument("--data", action="append", default=[], metavar="DIR", help="also pack this folder, which job "
                        "specs name as data_dir; may be repeated")
    parser.add_argument("--format", choices=("squashfs", "tar"), help="form of the image (default: squashfs, "
                        "which nodes can mount; else tar, which they unpack)")


def add_prefetch(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=prefetch)
    parser.add_argument("path", metavar="JOB_SPEC", help="a job spec, for example jobs/x.yaml")


def add_probe(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=probe)
    parser.add_argument("path", metavar="SPEC", help="a spec; or a job spec, of which the largest model is used")
    parser.add_argument("--most", type=int, default=65_536, metavar="N", help="maximum batch size (default: 65536)")


def doctor(options: argparse.Namespace) -> Output:
    """Print a line for each check, or JSON. Return 1 if one of them is an error."""
    from src.submission.doctor import checks, probes

    findings = probes.examine(PROJECT, batch_folder.results_folder(), options.deep)
    return Output(checks.report_lines(findings), checks.as_json(findings),
                  int(any(finding.verdict == checks.ERROR for finding in findings)))


def push_env(options: argparse.Namespace) -> Output:
    """Upload the environment of this Python, and print what it will lack on the other machine."""
    from src.submission.packing import environment
    from src.submission.remote import hosts, ssh
    from src.submission.remote import push_env as pushing

    folder = environment.find_environment(sys.prefix, sys.base_prefix, os.path.expanduser("~"))
    remote = ssh.connect(hosts.find_host(options.on_host, PROJECT), create=(".",),
                         known_hosts=hosts.read_hosts(PROJECT))
    confirm(f"Make {folder} on {remote.host.name} equal to the one here?", "nothing was copied", options)
    notes = pushing.push_environment(remote, folder, environment.base_python())
    document: documents.PushedEnvironment = {"host": remote.host.name, "folder": folder, "notes": list(notes)}
    check = experiments_command("doctor", "--on", remote.host.name)
    return Output([f"uploaded   {folder}", *notes, f"  {check}  checks that it works"], document)


def pack_env(options: argparse.Namespace) -> Output:
    """Pack the environment of this Python, and data folders, into an image that jobs use instead."""
    from src.submission.packing import environment, pack
    from src.submission.remote.upload import format_size

    this = environment.this_environment(os.path.expanduser("~"))
    data = [os.path.realpath(folder) for folder in options.data]
    for folder in data:
        if not os.path.isdir(folder):
            raise PackError("no such folder", where=f"--data {folder}", hint="name a folder that job specs have as "
                            "data_dir")
    print(f"packing    {' '.join([this.folder, *data])}", file=sys.stderr, flush=True)
    result, notes = pack.pack(this, data, options.format), pack.notes(this)
    size = os.path.getsize(result.path)
    document: documents.PackedImage = {"image": result.path, "bytes": size, "files": result.entries,
                                       "removed": result.removed, "kept": result.kept, "notes": notes}
    return Output([f"packed     {result.path}", f"           {result.entries:,} files, "
                   f"{format_size(1024 * result.kibibytes)}, as one of {format_size(size)}; jobs use it from now on",
                   *(f"removed    {name}, which no job uses" for name in result.removed),
                   *(f"kept       {name}, which a running job may use" for name in result.kept), *notes], document)


def prefetch(options: argparse.Namespace) -> Output:
    """Download each distinct data set and pretrained model of a job spec, on a node with internet access."""
    from src.checks import registered_names

    # data_download: false is meant for nodes without internet access
    configs = [config._replace(data_download=True) for config in _configs_of_job_spec(options.path)]
    data = {(config.dataset, config.data_dir, tuple(config.data_splits_map.values()), config.loss, config.targets,
             config.tokenizer or config.model if config.dataset.startswith("hf/") else None,
             tuple((config.eval_datasets or {}).values())): config for config in configs}
    models = {(config.model, config.model_pretrained, config.model_head_init): config for config in configs
              if config.model.partition("/")[0] in registered_names.PRETRAINED_FAMILIES}
    from src.datasets.factory import fetch as fetch_data
    from src.models.factory import fetch as fetch_model

    return Output(itertools.chain(map(fetch_data, data.values()), map(fetch_model, models.values())))


def probe(options: argparse.Namespace) -> Output:
    """Train with growing batch sizes, then with more loader processes, and print what to write into the spec."""
    from src import run_folder
    from src.io import yaml_io
    from src.submission.spec import reader

    if reader.is_job_spec(yaml_io.load_file(options.path)):
        configs = _configs_of_job_spec(options.path)
    else:
        configs = [Config.from_dict(run_folder.read_spec(options.path), options.path)]
    from src.training.components import build
    from src.training.probe import report

    return Output(report(configs, options.most, lambda config: build(config, None)))


def _configs_of_job_spec(path: str) -> Sequence[Config]:
    """Return the config of each point of a job spec. JobSpecError for one with a program of its own."""
    from src.submission.spec import grid, reader

    job_spec = reader.read_job_spec(path)
    if job_spec.command:
        raise JobSpecError("this job spec runs its own command, whose data sets and models are unknown", where=path)
    return [Config.from_dict(point, job_spec.source)
            for point in grid.expand_job_spec(job_spec, None, check_parameters, _ALL_VALUES).specs]
