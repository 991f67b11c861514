"""The fake Apptainer or Singularity itself: `program.py RECORDS NAME exec …`; see fixture.py."""
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


def fail(message: str) -> NoReturn:
    """Exit with an error message in Apptainer's format."""
    print(f"FATAL:   {message}", file=sys.stderr)
    sys.exit(255)


def parse(arguments: list[str]) -> tuple[dict[str, Any], list[tuple[str, str, bool]], list[str]]:
    """Return options, mounts, and the image followed by the command. Fails where Apptainer would."""
    if arguments[:1] != ["exec"]:
        fail(f"unknown command {arguments[:1]}")
    options: dict[str, Any] = {}
    mounts = []
    rest = arguments[1:]
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        if name == "--mount":
            mounts.append(parse_mount(value))
        elif name in FLAGS and not equals or name == "--pwd":
            options[name] = value
        else:
            fail(f"unknown flag: {name}")
    if len(rest) < 2 or not os.path.exists(rest[0]):
        fail(f"could not open image {rest[:1]}")
    return options, mounts, rest


def parse_mount(value: str) -> tuple[str, str, bool]:
    """Return source, destination, and whether the mount is read-only."""
    row, = csv.reader([value])
    fields = dict(field.partition("=")[::2] for field in row)
    if fields.pop("type") != "bind" or fields.keys() - {"ro"} != {"source", "destination"}:
        fail(f"invalid mount {row}")
    if not os.path.exists(fields["source"]):
        fail(f"mount source {fields['source']} doesn't exist")
    return fields["source"], fields["destination"], "ro" in fields


def container_environment(name: str, image: str, host_env: dict[str, str]) -> dict[str, str]:
    """Return the environment of the command: the variables with Apptainer's prefix, and a PATH without programs."""
    prefix = f"{name.upper()}ENV_"
    passed = {key.removeprefix(prefix): value for key, value in host_env.items() if key.startswith(prefix)}
    path = ":".join(filter(None, [passed.pop("PREPEND_PATH", None), "/nowhere"]))
    return {**passed, "PATH": path, "HOME": host_env.get("HOME", "/"), "LANG": "C", "SINGULARITY_CONTAINER": image}


def check_paths(paths: list[str], mounts: list[tuple[str, str, bool]]) -> None:
    """Fail for paths that no mount provides in the container, also after symbolic links are resolved."""
    for path in paths:
        for location in (path, os.path.realpath(path)):
            if not any(location == target or location.startswith(f"{target}/") for _, target, _ in mounts):
                fail(f"{location} does not exist in the container")


def main(records: str, name: str, arguments: list[str]) -> int:
    """Check the arguments, record the start, and run the command. Returns its exit code."""
    options, mounts, (image, *command) = parse(arguments)
    if "--cleanenv" not in options:
        fail("this fake requires --cleanenv")
    check_paths([options["--pwd"], *filter(os.path.isabs, command)], mounts)
    container_env = container_environment(os.path.basename(name), image, dict(os.environ))
    with tempfile.NamedTemporaryFile("w", dir=records, suffix=".json", delete=False) as file:
        json.dump({"argv": [name, *arguments], "host_env": dict(os.environ), "container_env": container_env,
                   "mounts": mounts, "command": command}, file)
    child: subprocess.Popen[bytes] | None = None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, _: child and child.send_signal(number))
    try:
        child = subprocess.Popen(command, env=container_env, cwd=options["--pwd"])
    except OSError:
        fail(f'"{command[0]}": executable file not found in $PATH')
    code = child.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
