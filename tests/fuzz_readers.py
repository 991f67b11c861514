"""The functions that read files, or the output of other programs, for tests/fuzzing.py; and which module has which."""
from __future__ import annotations

import contextlib
import fnmatch
import itertools
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from src.io import files

# beside the batch: files that are not part of one
OUTSIDE = "outside"
_OWN = "not of others: "
_PROGRAM = "the output of a program of this machine: "
_TESTED = "has its own test: "
# Module that reads files, or what other programs print: names of the readers here, or why it has none. A test compares
# it with the sources.
MODULES: dict[str, tuple[str, ...] | str] = {
    "analysis/page/details": ("run page",),
    "analysis/page/write": _OWN + "the page's files, and the browser code of an installed package",
    "analysis/reading/arrays": ("arrays",),
    "analysis/reading/cache": _TESTED + "tests/analysis/reading/test_cache.py damages caches",
    "analysis/reading/columns": ("results",),
    "analysis/reading/frames": ("results",),
    "analysis/reading/raw_files": ("results", "index"),
    "analysis/reading/runs": tuple(f"artifact a.{suffix}" for suffix in ("json", "npy", "npz", "csv", "txt")),
    "analysis/reading/steps": ("steps",),
    "archive/run_files": ("archive",),
    "archive/volume": ("archive",),
    "archive/writer": _OWN + "the run folders that it packs",
    "code/code_state": ("sources", "earlier code"),
    "code/code_versions": ("versions",),
    "code/program_files": _OWN + "the sources of the project",
    "commands/setup": _OWN + "submit scripts of the project",
    "dashboard/server": _TESTED + "tests/dashboard/test_server.py sends hostile requests",
    "datasets/factory": _OWN + "the file of a class map that the job spec names",
    "datasets/images": ("images", "mnist"),
    "datasets/libsvm": ("libsvm", "compressed"),
    "datasets/scikit": _OWN + "the data of the installed scikit-learn",
    "io/download": _OWN + "lock files, in a folder of data",
    "io/files": "the functions that all others use",
    "io/machine": _OWN + "/proc and /sys",
    "io/packed_copy": _OWN + "the record of the copy that this Python runs in",
    "io/private": _OWN + "opens the file that it writes",
    "io/process_tree": _OWN + "/proc",
    "io/user_settings": ("settings",),
    "io/yaml_io": ("job spec", "config", "spec"),
    "logs": ("logs",),
    "metrics": ("metric",),
    "models/clip_models": _OWN + "the file of class names that the job spec names",
    "notes": ("notes",),
    "run_folder": ("records", "tags"),
    "search/decide": _OWN + "whether a spec that it has written is empty",
    "search/decision": ("decision",),
    "search/definition": ("search",),
    "search/summary": ("end of a search",),
    "stats_csv": ("stats", "steps"),
    "submission/storage/archive_lock": _OWN + "fields of an identity that have their form",
    "submission/batch/batch_folder": _OWN + "whether a spec that it has written is empty",
    "submission/batch/extension": ("extension",),
    "submission/batch/journal": ("journals", "plans"),
    "submission/batch/provenance": ("code record",),
    "submission/storage/relocation": _OWN + "copies the text of a job spec",
    "submission/batch/reproduce": ("reproduce",),
    "submission/batch/sync_markers": ("markers",),
    "submission/batch/task_files": ("tasks",),
    "submission/batch/usage_history": ("usage index",),
    "submission/doctor/probes": ("doctor", "quota"),
    "submission/execution/smoke": _OWN + "the output of the smoke test",
    "submission/job/container_host": _TESTED + "tests/submission/job/test_container.py sends hostile requests",
    "submission/job/local_workers": _OWN + "the output of its workers",
    "submission/job/multi_gpu": _OWN + "messages of its processes",
    "submission/job/ranks": _OWN + "text of the run's processes, which becomes its error",
    "submission/job/requeue": _OWN + "the journal of the submission that it continues",
    "submission/job/worker_child": _OWN + "messages of the worker that has started it",
    "submission/packing/environment": _OWN + "the user's environment, which it packs",
    "submission/packing/image": _OWN + "the user's environment, and help texts of mksquashfs",
    "submission/packing/pack": _OWN + "the name of the image that it has written",
    "submission/packing/tree": _OWN + "the user's environment, which it packs",
    "submission/planning/extend": _OWN + "compares the text of a job spec",
    "submission/remote/download": ("states of another machine", "journals", "notes"),
    "submission/remote/frames": ("frames", "token"),
    "submission/remote/output": _TESTED + "tests/security/test_remote.py has hostile output",
    "submission/remote/remote_server": ("detached command",),
    "submission/remote/remote_submit": ("frames",),
    "submission/remote/ssh": _TESTED + "tests/submission/remote/test_ssh.py",
    "submission/setup/files_to_write": _OWN + "compares the text of a file that it would replace",
    "submission/setup/storage": _OWN + "the mounts of this machine",
    "submission/setup/trial_run": _OWN + "the output of a trial run",
    "submission/slots/record": ("slots",),
    "submission/slurm/client": ("squeue", "sacct", "usage", "scontrol"),
    "submission/slurm/error_log": _OWN + "the script that a journal names, as text",
    "submission/spec/notify_spec": ("addresses",),
    "submission/status/follow_logs": ("logs",),
    "submission/status/run_lookup": ("lookup",),
    "submission/status/status": ("idle GPU",),
    "submission/system/container_relay": _OWN + "answers of the process that has started the container",
    "submission/system/detached": ("detached command",),
    "submission/system/gpus": _PROGRAM + "nvidia-smi",
    "submission/system/process": _PROGRAM + "ps, and /proc",
    "submission/usage/jobstats": ("jobstats", "usage"),
    "terminal/live/cost": _OWN + "whether the text of a job spec has two words",
    "terminal/live/log_page": _TESTED + "tests/terminal/live/test_watch.py shows a hostile log",
    "tracking/mlflow_run": ("mlflow", "details", "rows"),
    "tracking/mlflow_tracker": _PROGRAM + "nvidia-smi, as text",
    "tracking/tensorboard_tracker": _OWN + "opens the file that it writes",
    "tracking/wandb_tracker": _PROGRAM + "wandb",
    "training/output/checkpoint": ("checkpoint", "saved model"),
    "training/output/log": _OWN + "opens the file that it writes",
    "training/output/recorder": ("earlier rows",),
    "training/output/resume": ("resume",),
    "training/output/step_log": ("earlier steps",),
    "training/parallel/distributed": _OWN + "tensors of the run's processes, without code (weights_only)",
    "training/parallel/rendezvous": _OWN + "the address that the run's first process writes",
    "training/setup/seeds": ("earlier seeds",)}
# how a source file reads
READS = re.compile(
    r"(?<!\w)(run_)?files\.(read_|open_regular|open_binary|parse_json)|json\.loads|(?<!def )(?<![\w.])open\(|"
    r"torch\.load\(|np\.load|load_npz|read_csv|tomllib\.|\.read_(text|bytes)\(|capture_output|subprocess\.PIPE|_OPENERS|recv_bytes|Image\.open")


class Reader(NamedTuple):
    """A function that reads files.

    may_refuse: it may raise an error with a message for the user;
    is_slow: it is called for some of the cases;
    only: pattern of the mutated files that it reads, relative to the folder of the batches; "": it is always called
    """

    name: str
    read: Callable[[], Any]
    may_refuse: bool = False
    is_slow: bool = False
    only: str = ""

    def reads(self, path: str) -> bool:
        """Return whether a file is among those that it reads."""
        return not self.only or any(fnmatch.fnmatch(path, pattern) for pattern in self.only.split())


def all_readers(batch: Path) -> list[Reader]:
    """Return the readers of a batch and of the job spec beside it."""
    from src.submission.spec import grid, reader

    def read_job_spec(file: str) -> None:
        grid.expand_job_spec(reader.read_job_spec(file), {}, None, None, None)

    folders = sorted(str(path) for path in batch.iterdir() if path.name[0].isdigit())
    outside = batch.parent / OUTSIDE
    return [*_readers_of_archives(f"{outside}/archived"), *_readers_of_results(batch, len(folders)),
            *_readers_of_submissions(str(batch)),
            *_readers_of_settings(outside), *_readers_of_answers(outside), *_readers_of_data(outside),
            Reader("job spec", lambda: read_job_spec(f"{batch.parent}/x.yaml"), may_refuse=True),
            Reader("batch's job spec", lambda: read_job_spec(f"{batch}/job.yaml"), may_refuse=True),
            *(reader for folder in folders for reader in _readers_of_run(folder)),
            *_readers_of_models(folders[0]), *_readers_of_searches(f"{outside}/search")]


def _readers_of_archives(batch: str) -> Iterator[Reader]:
    from src import run_folder
    from src.archive import contents, run_files

    def read() -> None:
        contents.clear_cache()
        for name in run_folder.run_names(batch):
            folder = os.path.join(batch, name)
            for file in run_files.list_names(folder):
                with contextlib.suppress(OSError):  # a wrong checksum
                    run_files.read_bytes(folder, file)
                with contextlib.suppress(OSError), run_files.open_binary(folder, file) as opened:
                    opened.read()

    yield Reader("archive", read, may_refuse=True, only="outside/archived/*")


def _readers_of_results(batch: Path, runs: int) -> Iterator[Reader]:
    from src import metrics
    from src.analysis import compare, report
    from src.analysis.page import document
    from src.analysis.reading import results, run_index
    from src.analysis.reading.runs import find_runs, is_done
    from src.analysis.tables import query, tables

    def read() -> None:
        read = results.read_results(batch)
        assert len(read.config) >= runs - 1, "a bad file leaves out its run alone"
        read.big_df()

    def analyse() -> None:
        read = results.read_results(batch)
        for kind in ("csv", "parquet"):
            read.export(batch.parent / "exported", kind)
        frame = read.big_df()
        columns = [name for name in read.long if name not in ("run", "epoch")]
        for column in metrics.ranking_columns(columns, frame.attrs.get("metric"))[:2]:
            tables.ranking(frame, column)
        query.query(tables.values_table(read.config, read.long), "base_lr > 0")

    def find() -> None:
        run_index._batches.clear()
        find_runs({"base_lr": 0.1}, batch)
        is_done({"base_lr": 0.1}, batch)

    def write_report() -> None:
        report._figure = lambda *_, **__: ""  # tests/analysis/test_hostile_cells.py draws figures
        report.build_report(results.read_results(batch))
        comparison = results.read_results(batch)
        compare.compare(comparison, comparison)

    yield Reader("report", write_report, is_slow=True)
    yield Reader("page", lambda: document.to_json(document.build(results.read_results(batch))), is_slow=True)
    yield Reader("results", read)
    yield Reader("index", find)
    yield Reader("metric", lambda: metrics.read_from_batch(batch))
    yield Reader("analysis", analyse, is_slow=True)


def _readers_of_submissions(batch: str) -> Iterator[Reader]:
    from src import notes, run_folder
    from src.code import code_state, code_versions
    from src.submission.batch import done_points, extension, journal, provenance, sync_markers
    from src.submission.status import efficiency, failures, observe, run_lookup, status, throughput
    from src.tracking import mlflow_run

    def show_status() -> None:
        observation, = observe.observe([batch])
        json.dumps(status.as_json(observation))
        status.render([observation], curves=True, now=time.time())
        throughput.progress_line([observation], time.time())
        failures.nodes_to_avoid(observation.runs.values())
        efficiency.usage_by_batch([observation])

    code = sorted(map(str, Path(batch, "code").iterdir()))

    def read_sources() -> None:
        code_state._manifest.cache_clear()
        for folder in code:
            code_state.changed_names(folder, "/nowhere")

    yield Reader("status", show_status)
    yield Reader("journals", lambda: journal.read_history(batch))
    yield Reader("plans", lambda: journal.plans_with_mapping("identity", batch))
    yield Reader("markers", lambda: sync_markers.read_host(batch, "far"))
    yield Reader("extension", lambda: extension.last_extension(batch))
    yield Reader("notes", lambda: [note.line() for note in notes.read(batch)])
    yield Reader("details", lambda: mlflow_run._details(batch))
    yield Reader("done points", lambda: done_points.done_points(os.path.dirname(batch)))
    def read_versions() -> None:
        code_state._manifest.cache_clear()
        runs = [f"{batch}/{name}" for name in run_folder.run_names(batch)]
        code_versions.read_versions(batch, runs)
        code_versions.differences_from(batch, batch, runs)

    yield Reader("sources", read_sources)
    yield Reader("versions", read_versions)
    yield Reader("code record", lambda: list(map(provenance.read_record, code)), may_refuse=True)
    yield Reader("lookup", lambda: run_lookup._runs_of_job(batch, "12"))


def _readers_of_run(folder: str) -> Iterator[Reader]:
    from src import logs, run_folder, stats_csv
    from src.analysis.page import details, document
    from src.analysis.reading import arrays, steps
    from src.config import Config
    from src.submission.batch import reproduce
    from src.tracking import mlflow_run

    def read_records() -> None:
        run = run_folder.RunFolder.read(folder)
        run.last_attempt()
        for ticket in run.claims:
            run.claim(ticket)
        run_folder.identity(folder)

    def read_logs() -> None:
        for log in logs.log_paths(folder):
            logs.normalize_error(logs.last_error(logs.tail(log)))

    def read_config(name: str) -> None:
        Config.from_dict(run_folder.read_spec(f"{folder}/{name}"))

    batch, run = folder.split("/")[-2:]
    only = f"{batch}/{run}/*"
    yield Reader("tags", lambda: run_folder.tags(folder), only=only)
    yield Reader("records", read_records, may_refuse=True, only=only)
    yield Reader("logs", read_logs, may_refuse=True, only=only)
    yield Reader("run page", lambda: document.to_json(details.run(folder)), only=only)
    yield Reader("stats", lambda: stats_csv.read(folder), only=only)
    yield Reader("steps", lambda: steps.read_steps([folder], ["a run"]), only=only)
    yield Reader("rows", lambda: mlflow_run.read_rows(folder), may_refuse=True, only=only)
    yield Reader("reproduce", lambda: reproduce.plan_steps(folder, "/nowhere").lines(), may_refuse=True,
                 only=f"{only} {batch}/code/* {batch}/job.yaml")
    yield Reader("config", lambda: read_config(run_folder.CONFIG), may_refuse=True, only=only)
    yield Reader("spec", lambda: read_config(run_folder.SPEC), may_refuse=True, only=only)
    yield Reader("arrays", lambda: arrays.read_arrays(folder, "val/last/matrix"), may_refuse=True, only=only)


def _readers_of_settings(outside: Path) -> Iterator[Reader]:
    """The files of a user, of a project, and of commands that other machines start."""
    from src.io import user_settings
    from src.monitoring import gpu_idle
    from src.submission.batch import task_files, usage_history
    from src.submission.remote import hosts, remote_server
    from src.submission.slots import record
    from src.submission.spec import grid, notify_spec, reader
    from src.submission.system import detached

    command = str(outside / "command")

    def read_settings() -> None:
        user_settings.FILE = hosts.USER_FILE = str(outside / "gridiron.toml")
        user_settings.trusted_modules()
        hosts.find_host("cluster", str(outside))

    def use_tasks() -> None:
        tasks = task_files.read(f"{outside}/t.tasks.json")
        list(tasks.startable())
        json.dumps([tasks.units(), list(map(tasks.spec_path, tasks.tickets))])

    def expand_sweep() -> None:
        grid.expand_job_spec(reader.read_job_spec(f"{outside}/sweep.yaml"), {}, None, None, None)

    def follow_command() -> None:
        remote_server._send = lambda **frame: json.dumps(frame)
        follower = remote_server._Follower(command, {"out": 0, "err": 0})
        assert follower.send_news() in (True, False)
        detached.is_alive(command)

    yield Reader("settings", read_settings, may_refuse=True, only="outside/*.toml")
    yield Reader("slots", lambda: list(record.lines_of("0", record.read(f"{outside}/t.0.slots.json"))),
                 only="outside/*.slots.json")
    yield Reader("usage index", lambda: usage_history._read_index(f"{outside}/usage.json"), only="outside/usage.json")
    yield Reader("idle GPU", lambda: gpu_idle.read_record(files.read_json(f"{outside}/gpu-idle.json")),
                 only="outside/gpu-idle.json")
    yield Reader("tasks", use_tasks, may_refuse=True, only="outside/*.tasks.json")
    yield Reader("sweep", expand_sweep, may_refuse=True, only="outside/sweep.yaml")
    yield Reader("addresses", lambda: notify_spec.Notify(f"{outside}/notify.txt").addresses(), may_refuse=True,
                 only="outside/notify.txt")
    yield Reader("detached command", follow_command, may_refuse=True, only="outside/command/*")


def _readers_of_answers(outside: Path) -> Iterator[Reader]:
    """The output of other programs and machines: each file is what one of them printed."""
    from src.submission.doctor import checks, probes
    from src.submission.remote import download, frames
    from src.submission.slurm import client
    from src.submission.usage import job_usage, jobstats

    def answer(name: str) -> str:
        try:
            return (files.read_bytes(outside / name) or b"").decode(errors="replace")
        except OSError:  # a pipe: of another kind than what a program prints
            return ""

    def answering(name: str, read: Callable[[], Any]) -> Callable[[], Any]:
        """Return a function during which every command prints that file."""
        def call() -> None:
            original, text = client._call, answer(name)
            client._call = lambda command, *_, **__: subprocess.CompletedProcess(command, 0, text, "")
            try:
                read()
            finally:
                client._call = original
        return call

    def read_queue() -> None:
        queue = client.squeue()
        json.dumps([[job.id, job.state, job.reason, job.submitted] for job in queue.jobs.values()])
        client.end_time("12")

    def read_usage() -> None:
        json.dumps([vars(usage) for usage in job_usage.usage_of_jobs(
            client.usage(0.0, [""]), {"12", "13"}).values()])

    def read_frames() -> None:
        lines = frames.Lines("mark", "far")
        for line in lines.add(answer("frames.txt").encode()):
            frames.parse(line, "far")

    def read_states() -> None:
        remote = type("Remote", (), {"host": type("Host", (), {"name": "far"}),
                                     "read_output": lambda self, command: answer("status.json")})()
        batches = outside.parent
        download._remote_states(remote, "results", str(batches), [
            path.name for path in batches.iterdir() if path.is_dir() and path.name[0].isdigit()])

    def read_quota() -> None:
        checks.check_quotas([probes.CommandResult(0, answer("quota.txt"), "")])

    yield Reader("squeue", answering("squeue.txt", read_queue), only="outside/squeue.txt")
    yield Reader("sacct", answering("sacct.txt", lambda: client.sacct(0.0)), only="outside/sacct.txt")
    yield Reader("usage", answering("usage.txt", read_usage),
                 only="outside/usage.txt")
    yield Reader("jobstats", lambda: jobstats.parse(answer("jobstats.txt")), only="outside/jobstats.txt")
    yield Reader("scontrol", answering("scontrol.txt", lambda: client.show_job("12")), only="outside/scontrol.txt")
    yield Reader("frames", read_frames, may_refuse=True, only="outside/frames.txt")
    yield Reader("token", lambda: frames.parse_token(answer("token.json"), "far"), may_refuse=True,
                 only="outside/token.json")
    yield Reader("states of another machine", read_states, may_refuse=True, only="outside/status.json")
    yield Reader("quota", read_quota, only="outside/quota.txt")
    yield Reader("doctor", lambda: probes._parse_json(answer("token.json")), only="outside/token.json")


def _readers_of_data(outside: Path) -> Iterator[Reader]:
    """Data sets, and caches of parsed ones."""
    from src.analysis.reading import runs
    from src.config import Config
    from src.datasets import factory

    factory.data_folder = lambda config: outside / "data"  # the path has a $, which is not to be expanded

    def read(name: str, **options: Any) -> None:
        data = factory.make_data(Config.from_dict({
            "dataset": name, "data_download": False, "batch_size": 2,
            "data_splits_map": {"train": "train"}, **options}))
        split = data.splits["train"]
        if not isinstance(getattr(split, "x", None), torch.Tensor):
            list(itertools.islice(split.batches(2, None, 0), 2))

    yield Reader("libsvm", lambda: read("libsvm/plain"), may_refuse=True,
                 only="outside/data/plain* outside/data/.parsed/*")
    yield Reader("compressed", lambda: read("libsvm/packed"), may_refuse=True, only="outside/data/packed*")
    yield Reader("images", lambda: read("folder/images", num_workers=0), may_refuse=True, only="outside/data/images/*")
    yield Reader("mnist", lambda: read("timm/torch/mnist", num_workers=0), may_refuse=True, only="outside/data/MNIST/*")
    for name in ("a.json", "a.npy", "a.npz", "a.csv", "a.txt"):
        yield Reader(f"artifact {name}", lambda name=name: runs.load_artifact(outside / "run", name), may_refuse=True,
                     only=f"outside/run/artifacts/{name}")


def _readers_of_models(folder: str) -> Iterator[Reader]:
    """Checkpoints and saved states, and the files that a resumed training reads."""
    from src import run_folder
    from src.code import code_state
    from src.config import Config
    from src.tracking import mlflow_export
    from src.training import saved_model
    from src.training.output import checkpoint, recorder, resume, step_log
    from src.training.setup import seeds

    config = Config.from_dict({name: value for name, value in run_folder.read_spec(f"{folder}/config.yaml").items()
                               if name != "facts"})

    columns = Path(folder, "stats.csv").read_text().partition("\n")[0].split(",")

    def resume_training() -> None:
        if (state := resume.load_newest(folder, config)[0]) is not None:
            resume.restore_generators(state["generators"], torch.device("cpu"))

    def read_earlier_rows() -> None:
        recorder.Recorder(folder, columns, lambda: None, 3)._earlier_rows(f"{folder}/stats.csv")

    def read_steps() -> None:
        log = step_log.StepLog.__new__(step_log.StepLog)
        log._columns = []
        with log.open(folder, 10, lambda: None, lambda rows: None):
            pass

    name = os.path.relpath(folder, Path(folder).parent.parent)
    yield Reader("checkpoint", lambda: checkpoint.load(f"{folder}/best_checkpoint.pt"), may_refuse=True,
                 only=f"{name}/best_checkpoint.pt")
    yield Reader("saved model", lambda: saved_model.Predictor(folder).predict(np.zeros((1, 64))), may_refuse=True,
                 only=f"{name}/best_checkpoint.pt {name}/config.yaml {name}/stats.csv")
    yield Reader("resume", resume_training, may_refuse=True, only=f"{name}/resume-*")
    yield Reader("earlier rows", read_earlier_rows, may_refuse=True, only=f"{name}/stats.csv")
    yield Reader("earlier steps", read_steps, may_refuse=True, only=f"{name}/steps.csv")
    yield Reader("earlier seeds", lambda: seeds.fill_seeds(config._replace(seed_model=None), folder), may_refuse=True,
                 only=f"{name}/config.yaml")
    yield Reader("earlier code", lambda: code_state.facts_before(folder, {}), may_refuse=True,
                 only=f"{name}/config.yaml")
    yield Reader("mlflow", lambda: mlflow_export.export_run(_Mlflow(), "http://x", folder, {}), may_refuse=True,
                 only=f"{name}/config.yaml {name}/s*.csv {name}/spec.yaml {name}/attempt* {name}/mlflow*")


class _Mlflow:
    """A client of MLflow that checks what it is sent as MLflow does."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: mock.MagicMock()

    def get_experiment_by_name(self, name: str) -> Any:
        return mock.MagicMock(experiment_id="1")

    def get_run(self, run_id: str) -> Any:
        data = mock.MagicMock(tags={"gridiron.model": "x"}, params={}, metrics={})
        return mock.MagicMock(data=data)

    def search_runs(self, *_: Any, **__: Any) -> list[Any]:
        return []

    def create_run(self, experiment: str, start: int | None, tags: dict[str, str], name: str) -> Any:
        assert all(isinstance(text, str) for item in tags.items() for text in item), tags
        assert start is None or abs(start) < 2**63
        return mock.MagicMock()

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        assert all(isinstance(item.value, str) for item in (*params, *tags))
        assert all(isinstance(item.value, float) and abs(item.step) < 2**63 and abs(item.timestamp) < 2**63
                   for item in metrics)


def _readers_of_searches(batch: str) -> Iterator[Reader]:
    from src.search import decision, definition, summary

    yield Reader("end of a search", lambda: summary.stop_reason(batch), only="outside/search/*")
    yield Reader("search", lambda: definition.read(batch), may_refuse=True, only="outside/search/*")
    yield Reader("decision", lambda: decision.read(batch, 0), may_refuse=True, only="outside/search/*")
