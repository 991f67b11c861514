"""The stand-in for Apptainer and Singularity itself: `program.py RECORDS NAME exec …`. See fixture.py."""
from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any, NoReturn

FLAGS = ("--cleanenv", "--nv")


def fatal(words: str) -> NoReturn:
    """As Apptainer says what it cannot do."""
    print(f"FATAL:   {words}", file=sys.stderr)
    sys.exit(255)


def parse(arguments: list[str]) -> tuple[dict[str, Any], list[tuple[str, str, bool]], list[str]]:
    """Of `exec`: options, mounts, and the image with the words after it. SystemExit for what Apptainer would refuse."""
    if arguments[:1] != ["exec"]:
        fatal(f"unknown command {arguments[:1]}")
    options: dict[str, Any] = {}
    mounts = []
    rest = arguments[1:]
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        if name == "--mount":
            row, = csv.reader([value])
            parts = dict(part.partition("=")[::2] for part in row)
            if parts.pop("type") != "bind" or parts.keys() - {"ro"} != {"source", "destination"}:
                fatal(f"wrong mount {row}")
            if not os.path.exists(parts["source"]):
                fatal(f"mount source {parts['source']} doesn't exist")
            mounts.append((parts["source"], parts["destination"], "ro" in parts))
        elif name in FLAGS and not equals or name == "--pwd":
            options[name] = value
        else:
            fatal(f"unknown flag: {name}")
    if len(rest) < 2 or not os.path.exists(rest[0]):
        fatal(f"could not open image {rest[:1]}")
    return options, mounts, rest


def environment_inside(name: str, image: str, outside: dict[str, str]) -> dict[str, str]:
    """Of the command: what has the prefix, and a PATH without anything of this machine."""
    prefix = f"{name.upper()}ENV_"
    told = {key.removeprefix(prefix): value for key, value in outside.items() if key.startswith(prefix)}
    path = ":".join(filter(None, [told.pop("PREPEND_PATH", None), "/nowhere"]))
    return {**told, "PATH": path, "HOME": outside.get("HOME", "/"), "LANG": "C", "SINGULARITY_CONTAINER": image}


def main(records: str, name: str, arguments: list[str]) -> int:
    """Check, write down, start, hand on."""
    options, mounts, (image, *words) = parse(arguments)
    if "--cleanenv" not in options:
        fatal("this stand-in knows --cleanenv alone")
    for path in (options["--pwd"], *filter(os.path.isabs, words)):
        for seen in (path, os.path.realpath(path)):
            if not any(seen == target or seen.startswith(f"{target}/") for _, target, _ in mounts):
                fatal(f"{seen} is not there in the container")
    inside = environment_inside(os.path.basename(name), image, dict(os.environ))
    with tempfile.NamedTemporaryFile("w", dir=records, suffix=".json", delete=False) as file:
        json.dump({"argv": [name, *arguments], "outside": dict(os.environ), "inside": inside, "mounts": mounts,
                   "words": words}, file)
    child: subprocess.Popen[bytes] | None = None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, _: child and child.send_signal(number))
    try:
        child = subprocess.Popen(words, env=inside, cwd=options["--pwd"])
    except OSError:
        fatal(f'"{words[0]}": executable file not found in $PATH')
    code = child.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
