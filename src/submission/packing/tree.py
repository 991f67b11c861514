"""The files of an image: those of an environment, adapted where they name its path, its Python, and data folders."""
from __future__ import annotations

import json
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from src.io import packed_copy
from src.submission.packing.environment import Environment

PYTHON = ".python"  # folder of the Python that an environment was made from
# parts of a standard library that no training imports; packages of the Python itself are not seen in an environment
_LEFT_OUT = re.compile(r"test|tests|idlelib|turtledemo|config-.*|site-packages|dist-packages")
_INTERPRETER = re.compile(r"python(3(\.\d+)?)?")
_MAX_SCRIPT = 2**20  # bytes


class Entry(NamedTuple):
    """A file, folder or link of an image.

    name: its path in the image;
    path: where its content, mode and times are from;
    content: what it contains instead; link: the target, if it is to be a symbolic link.
    """

    name: str
    path: str
    content: bytes | None = None
    link: str | None = None


def entries(environment: Environment, data: Iterable[str]) -> list[Entry]:
    """Return all entries of an image, sorted by name. data: absolute paths of folders."""
    all_entries = [_adapted(entry, environment) for entry in _walk(environment.folder)
             if entry.name.split("/")[0] not in (PYTHON, packed_copy.DATA, packed_copy.RECORD)]
    if environment.packs_base:
        all_entries += _base_entries(environment)
    for folder in data:
        all_entries += _walk(folder, packed_copy.DATA + folder)
    record = {"prefix": environment.prefix, "executable": os.path.join(environment.prefix, "bin", "python"),
              "base_prefix": environment.base, "data": list(data)}
    all_entries.append(Entry(packed_copy.RECORD, environment.folder, json.dumps(record).encode()))
    return sorted(all_entries, key=lambda entry: entry.name.split("/"))


def _walk(folder: str, name: str = "", keep: Callable[[str], bool] = lambda name: True) -> Iterator[Entry]:
    """Yield the regular files, folders and links of a folder, and itself unless it is the root of the image."""
    if name:
        yield Entry(name, folder)
    with os.scandir(folder) as items:
        for item in items:
            inside = f"{name}/{item.name}" if name else item.name
            if not keep(item.name):
                continue
            if item.is_symlink():
                yield Entry(inside, item.path, link=os.readlink(item.path))
            elif item.is_dir():
                yield from _walk(item.path, inside, keep)
            elif item.is_file():
                yield Entry(inside, item.path)


def _base_entries(environment: Environment) -> Iterator[Entry]:
    """Yield the interpreter, its shared library and the standard library of the Python outside the environment."""
    base = environment.base
    yield Entry(PYTHON, base)
    for folder in dict.fromkeys(("bin", "lib", *(os.path.dirname(name) for name in environment.stdlib))):
        yield Entry(f"{PYTHON}/{folder}", os.path.join(base, folder))
    yield Entry(f"{PYTHON}/bin/{os.path.basename(environment.executable)}", environment.executable)
    for name in environment.stdlib:
        yield from _walk(os.path.join(base, name), f"{PYTHON}/{name}", lambda name: not _LEFT_OUT.fullmatch(name))
    for name in sorted(os.listdir(os.path.join(base, "lib"))):
        path = os.path.join(base, "lib", name)
        if re.fullmatch(r"libpython.*\.so.*", name):
            yield Entry(f"{PYTHON}/lib/{name}", path, link=os.readlink(path) if os.path.islink(path) else None)


def _adapted(entry: Entry, environment: Environment) -> Entry:
    """Return an entry that works at any path: relative links, and scripts that start the Python in the image."""
    folder, name = os.path.split(entry.name)
    if folder == "bin" and environment.packs_base and _INTERPRETER.fullmatch(name):
        return entry._replace(link=f"../{PYTHON}/bin/{os.path.basename(environment.executable)}")
    if entry.link is not None:
        inside = os.path.relpath(entry.link, environment.folder)
        if entry.link.startswith("/") and not inside.startswith(".."):
            return entry._replace(link=os.path.relpath(inside, folder or "."))
    elif entry.name == "pyvenv.cfg" and environment.packs_base:
        with open(entry.path) as file:  # without `home`, Python finds its library by the link in bin
            return entry._replace(content="".join(line for line in file if not line.startswith("home")).encode())
    elif folder == "bin" and os.path.getsize(entry.path) < _MAX_SCRIPT:
        with open(entry.path, "rb") as binary:
            return entry._replace(content=relocatable_script(binary.read(), environment))
    return entry


def relocatable_script(content: bytes, environment: Environment) -> bytes | None:
    """Return a script that starts the Python in its own folder; None if it starts none of the environment."""
    for folder in (environment.prefix, environment.folder):
        place = re.escape(os.fsencode(os.path.join(folder, "bin")))
        # the usual first line, or that of pip for paths that are long or have blanks
        match = re.match(rb"#!" + place + rb"/(python[\d.]*)( [^\n]*)?\n", content) or re.match(
            rb"#!/bin/sh\n'''exec' \"?" + place + rb"/(python[\d.]*)\"?( [^\n]*?)? \"\$0\" \"\$@\"\n' '''\n", content)
        if match:
            interpreter = f'"$(dirname -- "$(realpath -- "$0")")"/{match[1].decode()}'
            options = shlex.join((match[2] or b"").decode().split())
            return (f"#!/bin/sh\n'''exec' {interpreter}{options and f' {options}'} \"$0\" \"$@\"\n' '''\n".encode()
                    + content[match.end():])
    return None


def kibibytes(items: Iterable[Entry]) -> int:
    """Return the space that the entries need on a disk with blocks of 4 KiB."""
    total = 0
    for entry in items:
        status = os.lstat(entry.path)
        is_file = entry.link is None and entry.content is None and stat.S_ISREG(status.st_mode)
        total += 4 * -(-status.st_size // 4096) if is_file else 4
    return total
