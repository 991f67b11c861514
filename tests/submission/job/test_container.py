"""Containers: the checked request and the command built from it, which takes any path and shows no secret."""
from __future__ import annotations

import contextlib
import csv
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.submission.job import container, container_calls, container_host
from src.submission.slurm import client, sbatch_messages
from src.submission.spec import container_spec
from src.submission.spec.container_spec import Container
from src.submission.system import container_relay, process
from src.submission.system.signals import Stopped

PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=60)


@given(PATHS, PATHS, st.sampled_from(["", "ro"]))
def test_mount_option_is_a_row_of_csv_for_any_path(source: str, destination: str, mode: str) -> None:
    name, _, value = container.mount_option(source, destination, mode).partition("=")
    row, = csv.reader([value], strict=True) if not set("\r\n") & set(value) else csv.reader(iter([value]), strict=True)
    assert name == "--mount"
    assert row == ["type=bind", f"source={source}", f"destination={destination}", *filter(None, [mode])]


def test_exec_command() -> None:
    requested = Container("/i/x.sif", options=["--no-home"])
    mount = "--mount=type=bind,source=/a,destination=/a"
    command = container.exec_command(requested, "/usr/bin/apptainer", [mount], True, ["python", "train.py", "a b"],
                                     "/my project")
    assert command == ["/usr/bin/apptainer", "exec", "--cleanenv", "--nv", "--pwd=/my project",
                       mount, "--no-home", "/i/x.sif", "python", "train.py", "a b"]
    assert "--nv" not in container.exec_command(requested, "apptainer", [], False, ["x"], "/")


def test_folders_are_mounted_at_their_paths_and_where_links_lead(tmp_path: Path) -> None:
    project, disk = tmp_path / "project", tmp_path / "disk"
    (project / "results").mkdir(parents=True)
    (disk / "data").mkdir(parents=True)
    (project / "data").symlink_to(disk / "data")
    mounted = container.topmost_folders([str(project / "results"), str(project), str(project / "data"), "/", "/usr"])
    assert mounted == [str(disk / "data"), str(project)]
    assert container.topmost_folders(["/a/b", "/a-b", "/a/b/c", "/a"]) == ["/a", "/a-b"]


def test_all_needed_folders_are_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project, the results, the data, the Python environment, caches, and the binds of the job spec."""
    for name in ("project", "results/batch", "scratch", "cache", "own: no"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCAL", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    requested = Container("x", binds=["$LOCAL:/fast", f"{tmp_path}/project:/again:ro"],
                      folders=["$SCRATCH/data/set", "data"])
    inside = container.inside_environment(requested, os.environ)
    options = container.mount_options(container.expand_on_node(requested), str(tmp_path / "results/batch"),
                                      f"{tmp_path}/project/train.py", inside, str(tmp_path / "project"))
    fields = [dict(part.partition("=")[::2] for part in option.removeprefix("--mount=").split(","))
              for option in options]
    mounts = {mount["destination"]: (mount["source"], "ro" in mount) for mount in fields}
    for name in ("project", "results/batch", "scratch", "cache"):
        path = str(tmp_path / name)
        assert mounts.pop(path) == (path, False), name
    assert mounts.pop("/fast") == (str(tmp_path / "own"), False)
    assert mounts.pop("/again") == (str(tmp_path / "project"), True)
    for folder in container.python_environment_folders():
        assert any(path in (folder, os.path.realpath(folder)) for path in mounts)
    assert inside["SCRATCH"] == str(tmp_path / "scratch"), "data_dir refers to it"


def test_variables_of_nodes_are_kept_in_the_preview_and_expanded_there(tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL", raising=False)
    requested = Container("/x.sif", binds=["$LOCAL/fast:/fast:rw"], folders=["$LOCAL/data"])
    preview = container.preview_command(requested, str(tmp_path), str(tmp_path), f"{tmp_path}/run/spec.yaml",
                                        gpus=False)
    assert "--mount=type=bind,source=$LOCAL/fast,destination=/fast" in preview
    assert "--mount=type=bind,source=$LOCAL/data,destination=$LOCAL/data" in preview
    with pytest.raises(UserError, match=r"\$LOCAL in '\$LOCAL/fast:/fast:rw' is not set here"):
        container.expand_on_node(requested)
    monkeypatch.setenv("LOCAL", str(tmp_path))
    with pytest.raises(UserError, match=f"the container binds {tmp_path}/fast, which does not exist on"):
        container.expand_on_node(requested)
    (tmp_path / "fast").mkdir()
    assert container.expand_on_node(requested).binds == [f"{tmp_path}/fast:/fast:rw"]


def test_only_listed_variables_are_passed_on() -> None:
    node = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1",
            "CUDA_VISIBLE_DEVICES": "1", "WANDB_API_KEY": "k", "COMET_API_KEY": "k", "RANK": "0",
            "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "n", "OMP_NUM_THREADS": "1", "HF_HOME": "/h", "MINE": "m", "B": "b",
            "LD_LIBRARY_PATH": "/opt", "PYTHONPATH": "/x", "CONDA_PREFIX": "/c", "PATH": "/usr/bin", "CUDA_HOME": "/c",
            "AWS_SECRET_ACCESS_KEY": "no", "FRANK": "no", "SSH_AUTH_SOCK": "no", "SCRATCH": "/s"}
    requested = Container("x", env={"MINE": None, "MODE": "fast", "GONE": None}, folders=["${SCRATCH}/data", "$B"])
    passed = ("SLURM_JOB_ID", "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES", "WANDB_API_KEY", "COMET_API_KEY", "RANK",
              "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS", "HF_HOME", "MINE", "SCRATCH", "B")
    assert container.inside_environment(requested, node) == {"PYTHONNOUSERSITE": "1", "MODE": "fast",
                                                         **{name: node[name] for name in passed}}


@pytest.mark.parametrize(("runtime", "prefix"), [("/opt/bin/apptainer", "APPTAINER"), ("singularity", "SINGULARITY")])
def test_runtime_gets_values_by_its_environment_unevaluated(runtime: str, prefix: str) -> None:
    environment = container.runtime_environment(runtime, {"KEY": "a $HOME `b`"}, {"HOME": "/h"})
    assert environment == {"HOME": "/h", f"{prefix}ENV_KEY": "a $HOME `b`", f"{prefix}_NO_EVAL": "1"}


@pytest.mark.parametrize(("environment", "expected"), [
    ({"SLURM_JOB_ID": "1"}, False), ({"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "0"}, True),
    ({"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, False), ({"CUDA_VISIBLE_DEVICES": ""}, False),
    ({"SLURM_JOB_ID": "1", "SLURM_JOB_GPUS": "0"}, True), ({"CUDA_VISIBLE_DEVICES": "GPU-1a"}, True)])
def test_gpus_are_used_if_slurm_assigned_them(environment: dict[str, str], expected: bool) -> None:
    assert container.may_use_gpus(environment) is expected


def test_valid_forms_of_a_container() -> None:
    assert container_spec.parse_container("x.sif", "job") == Container("x.sif")
    full = {"image": "x.sif", "binds": "/a:/b", "env": ["A", "B"], "python": "python", "options": ["--no-home"]}
    passed_on = {"A": None, "B": None}
    assert container_spec.parse_container(full, "job") == Container(
        "x.sif", ["/a:/b"], passed_on, "python", ["--no-home"])
    container = container_spec.parse_container({"image": "x", "env": {"N": 3, "P": None}}, "job")
    assert container.env == {"N": "3", "P": None}


@pytest.mark.parametrize(("value", "message"), [
    (3, "invalid container 3"), ({}, "image is required"), ({"image": 3}, "3 is not a string"),
    ({"image": "x", "bind": "/a"}, "did you mean 'binds'"), ({"image": "x", "binds": ["/a:b"]}, "invalid bind"),
    ({"image": "x", "binds": ":/b"}, "invalid bind"), ({"image": "x", "binds": ["/a:/b:wo"]}, "SOURCE:/DESTINATION"),
    ("docker://some/image", "apptainer pull"),
    ({"image": "x", "env": {"WANDB_API_KEY": "k"}}, "`WANDB_API_KEY: null`"),
    ({"image": "x", "env": {"A=B": "k"}}, "is not a variable"), ({"image": "x", "env": ["PATH"]}, "is not a variable"),
    ({"image": "x", "env": {"A": [1]}}, "a string, a number or null"),
    ({"image": "x", "env": "A"}, "invalid environment 'A'")])
def test_invalid_containers_are_refused(value: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        container_spec.parse_container(value, "job_details, container")
    assert message in str(error.value)
    assert str(error.value).startswith("job_details, container")


def test_missing_image_bind_or_runtime_is_an_error_at_submission(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "x.sif"
    with pytest.raises(UserError, match=r"x\.sif: no such image.*container\.def"):
        container.choose_container(str(image), None, None, [], here=False)
    image.touch()
    bound = Container(str(image), binds=[f"{tmp_path}/no:/data"])
    with pytest.raises(UserError, match="no, which does not exist here.*TMPDIR"):
        container.choose_container(None, bound, None, [], here=False)
    on_nodes = Container(str(image), binds=["$TMPDIR/fast:/fast"])
    assert container.choose_container(None, on_nodes, None, [], here=False) == on_nodes
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="neither apptainer nor singularity is on this machine.*--container none"):
        container.choose_container(str(image), None, None, [], here=True)
    assert "nodes must have one" in container.summary(on_nodes)


def test_option_overrides_the_image_and_a_retry_keeps_the_rest(tmp_path: Path) -> None:
    one, other = tmp_path / "1.sif", tmp_path / "2.sif"
    one.touch()
    other.touch()
    requested = Container(str(one), env={"A": "1"})
    chosen = container.choose_container(None, requested, None, ["/p"], here=False)
    assert chosen == Container(str(one), env={"A": "1"}, folders=["/p"])
    earlier = vars(chosen)
    assert container.choose_container(str(other), None, earlier, ["/p"], here=False) == Container(
        str(other), env={"A": "1"}, folders=["/p"])
    assert container.choose_container(container.NONE, requested, earlier, ["/p"], here=True) is None


SUCCESSOR = ["sbatch", "--parsable", "--chdir=/p", "--job-name=x", "--output=/p/b/000_x/%j.out",
             "--comment=gridiron-261120-100000-abcdef-0", "--mem=8G", "/p/s.sh", "/p/b/000_x/spec.yaml"]
COMMENTED = [word.replace("100000-abcdef", "110000-ffffff.12-0-last") for word in SUCCESSOR]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file with the commands that the host process of Slurm job 12 has run for its container."""
    for name in ("scontrol", "squeue", "sacct", "sbatch", "scancel", "sh"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$0 $*" | sed "s,.*/bin-,," >> "{tmp_path}/asked"\n'
                                     'echo "$SLURM_TIME_FORMAT" >&2; exit 3\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_CLUSTER_NAME"):
        monkeypatch.delenv(name, raising=False)
    with container_host._ContainerHost(str(tmp_path / "slurm"), SUCCESSOR):
        monkeypatch.setenv(process.RELAY_SOCKET, str(tmp_path / "slurm"))
        yield tmp_path / "asked"
    with pytest.raises(FileNotFoundError):  # the host process has ended
        container_relay.run(["scontrol"], None, 5, "")


@pytest.mark.parametrize("command", [
    ["squeue", "--all", "--noheader", "--jobs=12_3", "--format=%e"],
    ["squeue", "--all", "--noheader", "--array", "--clusters=a,b", "--format=%i|%T|%V|%r|%k", "--user=1000"],
    ["sacct", "--allocations", "--noheader", "--parsable2", "--starttime=2026-11-20T10:00:00", "--endtime=now",
     "--state=PENDING,RUNNING", "--format=JobID,State,Submit,ExitCode"],
    ["scontrol", "--all", "--oneliner", "show", "job", "12"], ["scontrol", "show", "config"],
    ["scontrol", "requeue", "12"], SUCCESSOR, COMMENTED])
def test_host_runs_what_a_run_needs(command: list[str], asked: Path) -> None:
    done = container_relay.run(command, {"LD_PRELOAD": "x"}, 5, "")
    assert done.returncode == 3
    assert len(asked.read_text().splitlines()) == 1


@pytest.mark.parametrize("query", [
    lambda: client.show_job("12"), lambda: client.end_time("12_3"), lambda: client.requeue("12"), client.max_array_size,
    client.squeue, lambda: client.squeue(["", "c2"]), lambda: client.sacct(1.0, ["", "c2"])])
def test_host_runs_the_queries_of_the_client(query: Callable[[], object], asked: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in a container learns by them whether it was preempted, for example."""
    answers = []
    run = container_relay.run
    monkeypatch.setattr(container_relay, "run", lambda *arguments: answers.append(run(*arguments)) or answers[-1])
    query()
    assert answers
    assert container_calls.REFUSED not in [answer.stderr for answer in answers]


@pytest.mark.parametrize("command", [
    ["sh", "-c", "true"], ["scancel", "12"], ["scancel", "--user=me"], ["scontrol", "requeue", "13"],
    ["scontrol", "update", "job=12", "TimeLimit=30-0"], ["scontrol", "show", "job", "12"], ["scontrol", "shutdown"],
    ["scontrol", "--all", "--oneliner", "show", "job", "12 x"], ["scontrol"], ["squeue", "--jobs=12", "-o", "%i"],
    ["sacct", "--file=/etc/shadow"], ["sbatch", "--wrap=touch x"], ["sbatch", "/tmp/x.sh"],
    [*SUCCESSOR[:-2], "/tmp/x.sh", SUCCESSOR[-1]], [*SUCCESSOR[:-1], "/p/b/001_x/spec.yaml"],
    [*SUCCESSOR[:-2], "--wrap=touch x", *SUCCESSOR[-2:]], SUCCESSOR[:-1],
    [word.replace("gridiron-261120", "x") for word in SUCCESSOR]])
def test_host_refuses_every_other_command(command: list[str], asked: Path) -> None:
    done = container_relay.run(command, None, 5, "")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == container_calls.REFUSED
    assert sbatch_messages.classify(done.stderr) == sbatch_messages.PERMANENT
    assert not asked.exists()


@pytest.mark.parametrize("request_line", [
    b"[1]", b'{"command": "squeue"}', b'{"command": []}', b'{"command": [1]}', b'"x"', b"3",
    b'{"command": ["squeue"], "set": {"LD_PRELOAD": "x"}, "input": "", "timeout": 5}',
    b'{"command": ["squeue"], "set": {"GRIDIRON_TICKET": "x"}, "input": "", "timeout": 5}',
    b'{"command": ["squeue"], "set": {}, "input": "#!/bin/sh", "timeout": 5}',
    b'{"command": ["squeue"], "set": {}, "input": "", "timeout": 1e9}',
    b'{"command": ["squeue"], "set": {}, "input": "", "timeout": true}', b"{" * 100_000, b"x", b""])
def test_host_refuses_malformed_requests(request_line: bytes, asked: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[process.RELAY_SOCKET])
        connection.settimeout(60)
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(request_line + b"\n")
        with contextlib.suppress(ConnectionResetError):
            answer = connection.recv(1000)
            assert answer in (b"", json.dumps({"code": 1, "stdout": "", "stderr": container_calls.REFUSED}).encode()
                              + b"\n")
    assert not asked.exists()


TRAIN = """import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from src.submission.system import container_relay
print("started", flush=True)
time.sleep(float(sys.argv[2]))
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
container_relay.register_for_signals()
print("listening", flush=True)
time.sleep(20)
"""


START = """import os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
from src.submission.job import container_host
from src.submission.system import process
os.environ[process.RELAY_SOCKET] = sys.argv[2]
def raise_signals():
    for line in sys.stdin:
        signal.pthread_kill(threading.get_ident(), int(line))
with container_host._ContainerHost(sys.argv[2]) as host:
    threading.Thread(target=raise_signals, daemon=True).start()
    sys.exit(host.run(sys.argv[3:], os.environ))
"""
NO_SHELL: list[str] = []
SHELL = ["sh", "-c", '"$@"; exit $?', "sh"]
IGNORES_TERM = ["sh", "-c", 'trap "" TERM; "$@"; exit $?', "sh"]


def start_host(folder: Path, sleep: float, runtime: Sequence[str]) -> subprocess.Popen[str]:
    """Start the host process of a train.py that registers for signals after `sleep` seconds.

    runtime: a command prefix: none, or a shell that does not forward signals. A number written to the stdin of the host
    process is a signal that another thread of it raises.
    """
    (folder / "train.py").write_text(TRAIN)
    root = str(Path(__file__).parents[3])
    return subprocess.Popen([sys.executable, "-c", START, root, str(folder / "slurm"), *runtime, sys.executable,
                             str(folder / "train.py"), root, str(sleep)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            text=True)


@pytest.mark.parametrize(("sleep", "number", "runtime", "code"), [
    (0, "USR1", SHELL, 75), (0, "TERM", SHELL, 3), (0, "INT", SHELL, 3), (0.5, "USR1", SHELL, 75),
    (20, "TERM", NO_SHELL, 143), (0.5, "TERM", IGNORES_TERM, 3)],
    ids=["time limit", "stop", "Ctrl-C", "the warning waits for a client", "a stop does not wait",
         "a stop waits if the runtime ignores it"])
def test_signals_reach_the_process_inside(sleep: float, number: str, runtime: Sequence[str], code: int,
                                          tmp_path: Path) -> None:
    with start_host(tmp_path, sleep, runtime) as host:
        assert host.stdout and host.stdout.readline() == "started\n"
        if sleep == 0:
            assert host.stdout.readline() == "listening\n"
        host.send_signal(signal.Signals[f"SIG{number}"])
        assert host.wait(300) == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 3), (signal.SIGUSR1, 75)])
def test_signal_taken_by_another_thread_is_forwarded(number: int, code: int, tmp_path: Path) -> None:
    """This happens on a busy machine, when a thread starts while the main one waits for the container."""
    with start_host(tmp_path, 0, SHELL) as host:
        assert host.stdin and host.stdout and host.stdout.readline() == "started\n"
        assert host.stdout.readline() == "listening\n"
        time.sleep(0.2)  # the main thread waits
        host.stdin.write(f"{number:d}\n")
        host.stdin.flush()
        assert host.wait(300) == code


class PreemptedSocket(socket.socket):
    """A client that is descheduled while it sends: the call returns after the server has sent TERM to this process and
    closed the connection."""

    def send(self, *arguments: Any) -> int:
        sent = super().send(*arguments)
        self._stop()
        return sent

    def sendall(self, *arguments: Any) -> None:
        super().sendall(*arguments)
        self._stop()

    def _stop(self) -> None:
        hang_up = select.poll()
        hang_up.register(self, 0)  # POLLHUP is always reported
        assert hang_up.poll(10_000)
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("send_request", [
    container_relay.register_for_signals, lambda: container_relay.run(["scontrol"], None, 5, "")], ids=["register",
                                                                                                        "run"])
def test_signal_during_a_request_is_not_lost(send_request: Callable[[], object], tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy machine: the server's signal and answer come before the client's send returns."""
    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"{}\n")

    def stop(number: int, _frame: object) -> None:
        raise Stopped(number)

    monkeypatch.setenv(process.RELAY_SOCKET, str(tmp_path / "slurm"))
    monkeypatch.setattr(container_relay, "socket", SimpleNamespace(**{**vars(socket), "socket": PreemptedSocket}))
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "slurm"))
            server.listen()
            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(Stopped):
                send_request()
            thread.join()
    finally:
        signal.signal(signal.SIGTERM, previous)
