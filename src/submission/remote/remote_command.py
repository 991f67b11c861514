"""experiments.py --on HOST: the same command on another machine, in its project and environment, with our streams"""
from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence

from src.errors import ON, RemoteError
from src.submission.batch import batch_folder
from src.submission.remote import download, hosts, remote_server, ssh, upload
from src.submission.remote.ssh import ConnectionLost, Remote

_ONCE = ("logs", "cancel", "clean", "note")  # a broken connection ends them: begun again they would say or do it twice
_SENT_FIRST = ("doctor", "prefetch", "missing")  # they look at the project's own files, as they are here


def run(command: str, argv: Sequence[str], options: argparse.Namespace, project: str, results: str) -> int:
    """Give the command `command`, which `argv` begins with, there; its exit status. RemoteError if that cannot be.

    results: the folder of batches here.
    """
    sends = command in _SENT_FIRST
    host, known = hosts.find_host(options.on, project), hosts.read_hosts(project)
    far = ssh.connect(host, create=(remote_server.NAMED_FILES,) if sends else (), known_hosts=known)
    words = ssh.remove_on_option(argv)
    if sends:
        words = _send(far, project, words, getattr(options, "path", None))
    place = download.remote_results_folder(far)
    if place != results:
        words = [_moved(word, results, place) for word in words]
    words = ["env", f"{ON}={far.host.name}", f"{batch_folder.RESULTS_VARIABLE}={place}", far.host.python,
             "experiments.py",
             *words]
    if command == "report":
        return _report(far, words, options, results)
    return _follow(far, words, again=command not in _ONCE)


def _moved(word: str, results: str, place: str) -> str:
    """A path under the results here as it is there."""
    path = os.path.normpath(word)
    return os.path.join(place, os.path.relpath(path, results)) if path.startswith(f"{results}/") else word


def _send(far: Remote, project: str, words: list[str], job_spec: str | None) -> list[str]:
    """Bring the project's files there, and a job spec from elsewhere; the words, with what that is called there."""
    files = upload.project_files(project)
    given = [upload.locate_file(job_spec, project, files, "job spec")] if job_spec else []
    sent = upload.Upload(upload.upload_project(far, project, files).files + upload.upload_named_files(far, given).files)
    print(f"sent       {sent.summary()} ({far.host.name}:{far.host.folder})", file=sys.stderr, flush=True)
    return [given[0].remote_name if given and word == job_spec else word for word in words]


def _follow(far: Remote, words: Sequence[str], again: bool) -> int:
    """Run it with its words on our terminal. again: begin it anew if the connection breaks."""
    def once() -> int:
        begun = time.monotonic()
        try:
            return far.run(words, terminal=True)
        except RemoteError as error:  # the connection broke
            if not again:
                raise
            raise ConnectionLost(error.what, made_progress=time.monotonic() - begun > 60) from None

    return far.retry(once)


def _report(far: Remote, words: list[str], options: argparse.Namespace, results: str) -> int:
    """Have it written there and bring it here: into the batch, if there is a copy of it here."""
    kept = [word for index, word in enumerate(words)
            if not (options.to and (word == f"--to={options.to}" or "--to" in (word, words[index - 1])))]
    said = re.search(r"^report: (.+)$", far.read_output(kept), re.MULTILINE)
    if said is None:
        raise RemoteError("its report is nowhere", where=far.host.name, hint="is the project there as new as this one?")
    folder, name = os.path.split(os.path.abspath(said[1]))
    copy = os.path.join(results, os.path.basename(folder))
    path = os.path.abspath(options.to or (os.path.join(copy, name) if os.path.isdir(copy) else f"{copy}.{name}"))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    far.rsync("--times", "--compress", "--", far.rsync_path(said[1]), path)
    print(f"report: {path}")
    return 0
