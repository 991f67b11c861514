"""experiments.py --on HOST: run the command on a remote machine, in its project and environment, with our streams."""
from __future__ import annotations

import argparse
import json
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Sequence

from src import run_folder
from src.errors import ON, RemoteError
from src.io import files
from src.submission.batch import batch_folder
from src.submission.remote import download, hosts, remote_server, ssh, staging, upload
from src.submission.remote.ssh import ConnectionLost, Remote

# after a lost connection these would print or act twice
_NOT_REPEATED = ("logs", "cancel", "clean", "note", "rename", "move", "delete")
_NEEDS_UPLOAD = ("doctor", "prefetch", "missing")  # commands that read the project's files, which may have changed


def run(command: str, argv: Sequence[str], options: argparse.Namespace, project: str, results: str) -> int:
    """Run a command of experiments.py on options.on, and return its exit status. RemoteError if that is impossible.

    argv: the command line, which begins with `command`;
    results: the local folder of batches.
    """
    needs_upload = command in _NEEDS_UPLOAD
    host, known_hosts = hosts.find_host(options.on, project), hosts.read_hosts(project)
    remote = ssh.connect(host, create=(remote_server.NAMED_FILES,) if needs_upload else (), known_hosts=known_hosts)
    arguments = ssh.remove_on_option(argv)
    if needs_upload:
        arguments = _upload(remote, project, arguments, getattr(options, "path", None))
    remote_results = download.remote_results_folder(remote)
    if remote_results != results:
        arguments = [_move_path(word, results, remote_results) for word in arguments]
    remote_command = ["env", f"{ON}={remote.host.name}", f"{batch_folder.RESULTS_VARIABLE}={remote_results}",
                      remote.host.python, "experiments.py", *arguments]
    if command == "report":
        return _download_report(remote, remote_command, options, results)
    return _run(remote, remote_command, is_repeatable=command not in _NOT_REPEATED, raw=getattr(options, "raw", False))


def _move_path(word: str, results: str, remote_results: str) -> str:
    """Return a path below the local results as a path below the remote ones, and any other word unchanged."""
    path = os.path.normpath(word)
    return os.path.join(remote_results, os.path.relpath(path, results)) if path.startswith(f"{results}/") else word


def _upload(remote: Remote, project: str, arguments: list[str], job_spec: str | None) -> list[str]:
    """Upload the project and the job spec; return the arguments with the job spec's remote name."""
    files = upload.project_files(project)
    named_files = [upload.locate_file(job_spec, project, files, "job spec")] if job_spec else []
    uploaded = upload.Upload(upload.upload_project(remote, project, files).files
                             + upload.upload_named_files(remote, named_files).files)
    print(f"uploaded   {uploaded.summary()} ({remote.host.name}:{remote.host.folder})", file=sys.stderr, flush=True)
    return [named_files[0].remote_name if named_files and word == job_spec else word for word in arguments]


def _run(remote: Remote, command: Sequence[str], is_repeatable: bool, raw: bool) -> int:
    """Run a command on our terminal. is_repeatable: run it again if the connection is lost. raw: do not filter it."""
    def attempt() -> int:
        started = time.monotonic()
        try:
            return remote.run(command, terminal=True, raw=raw)
        except RemoteError as error:  # the connection was lost
            if not is_repeatable:
                raise
            raise ConnectionLost(error.what, made_progress=time.monotonic() - started > 60) from None

    return remote.retry(attempt)


def _download_report(remote: Remote, command: list[str], options: argparse.Namespace, results: str) -> int:
    """Write a report there and download it: to `--to`, or into the local copy of the first batch, or beside where it
    would be. The path here depends on the command line only, never on what the remote machine sends.
    """
    to: str | None = options.to
    plain_command = [word for index, word in enumerate(command) if word != "--json" and not (
        to and (word == f"--to={to}" or "--to" in (word, command[index - 1])))]
    line = re.search(r"^report: (.+)$", remote.read_output(plain_command), re.MULTILINE)
    if line is None:
        raise RemoteError("its report was not found", where=remote.host.name,
                          hint="upload this version of the project: any submission with --on does")
    batches = list(dict.fromkeys(map(os.path.abspath, options.batches)))
    copy, name = os.path.join(results, os.path.basename(batches[0])), run_folder.report_name(batches)
    path = os.path.abspath(to or (os.path.join(copy, name) if os.path.isdir(copy) else f"{copy}.{name}"))
    files.make_folder(os.path.dirname(path))
    with tempfile.TemporaryDirectory(prefix=".report-", dir=os.path.dirname(path)) as folder:
        staged = os.path.join(folder, "staged.html")
        remote.rsync(*staging.FILE_OPTIONS, "--", remote.rsync_path(line[1]), staged)
        if not stat.S_ISREG(os.lstat(staged).st_mode):
            raise RemoteError("its report is not a file", where=remote.host.name)
        os.replace(staged, path)
    print(json.dumps({"report": path}, ensure_ascii=False) if options.json else f"report: {path}")
    return 0
