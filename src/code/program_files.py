"""The files of a project that a command runs: those that it names, and what these import or name in turn."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from src.code.code_state import CODE_SUFFIXES, DATA_SUFFIXES, is_job_spec
from src.io import files

_MAX_FILE = 2**20  # bytes; a larger file of a command is data
_MAX_FILES = 200  # that are read for one command
_NOT_SOURCES = frozenset(("data", "results", "site-packages", "dist-packages", "__pycache__", "node_modules"))
_FILE_NAME = re.compile(r"[\w./-]*[\w-]\.\w+")
_WANDB_IMPORT = re.compile(rb"^[ \t]*(import|from)[ \t]+wandb\b", re.MULTILINE)
_MODULE_OPTION = re.compile(r"(?<!\S)-m[ \t]+([A-Za-z_][\w.]*)")


def files_of_command(words: Sequence[str], project: str, run: str = "") -> list[str]:
    """Return the files that a command runs, those that it names first; empty if it names none.

    They are relative to the project if they are in it, and otherwise as the command names them. Nothing is executed:
    the imports of Python files are followed, and of other files, and in strings, the names of files of the project.
    A file that is only found at run time, for example by a computed name, is missing.

    run: the folder of the run, whose files are not code.
    """
    search = _Search(os.path.abspath(project), os.path.abspath(run) if run else None)
    for word in words:
        path = os.path.join(search.project, word)
        if os.path.isfile(path) and os.path.getsize(path) <= _MAX_FILE and _is_script(path):
            search.add(path, word)
    search.add_text("\n".join(words), search.project)
    search.add_modules(_MODULE_OPTION.findall(" ".join(words)), [search.project])
    return search.follow()


def wandb_logger(words: Sequence[str], project: str) -> str | None:
    """Return the file of a command that logs to W&B, if none of its files names stats.csv; else None."""
    logger = None
    for name in files_of_command(words, project):
        text = _read(os.path.join(project, name))
        if b"stats.csv" in text:
            return None
        if logger is None and _WANDB_IMPORT.search(text) and b".log(" in text:
            logger = name
    return logger


def imported_files(modules: Iterable[str], project: str) -> list[str]:
    """Return the files of a project that modules consist of, and what these import or name in turn."""
    search = _Search(os.path.abspath(project), None)
    search.add_modules(modules, [search.project])
    return search.follow()


def _is_script(path: str) -> bool:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in CODE_SUFFIXES or suffix in DATA_SUFFIXES:
        return True
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


class _Search:
    """A search for the files of a program. names: what was found, by path."""

    def __init__(self, project: str, run: str | None) -> None:
        self.project, self._run = project, run
        self.names: dict[str, str] = {}

    def add(self, path: str, name: str = "") -> None:
        """Add a file. name: of a file outside the project."""
        path = os.path.normpath(path)
        if path in self.names or len(self.names) >= _MAX_FILES or self._run and path.startswith(f"{self._run}/"):
            return
        relative = os.path.relpath(path, self.project)
        is_inside = not relative.startswith(f"..{os.sep}")
        if is_inside and _is_left_out(relative) or not (is_inside or name):
            return
        if not is_job_spec(path, _read(path)):
            self.names[path] = relative if is_inside else name

    def add_text(self, text: str, folder: str) -> None:
        """Add the files that a text names, from a folder or from the project."""
        for name in dict.fromkeys(_FILE_NAME.findall(text)):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in CODE_SUFFIXES or suffix in DATA_SUFFIXES:
                relative = name.lstrip("/")  # in an f-string, the folder before it is unknown
                path = next((path for path in (os.path.join(folder, name), os.path.join(self.project, name),
                                               os.path.join(folder, relative), os.path.join(self.project, relative))
                             if os.path.isfile(path)), None)
                if path and os.path.getsize(path) <= _MAX_FILE:
                    self.add(path)

    def add_modules(self, modules: Iterable[str], folders: Sequence[str]) -> None:
        """Add the files of modules, and the packages that they are in."""
        for module in modules:
            parts = module.split(".")
            for folder in folders:
                paths = [path for end in range(1, len(parts) + 1)
                         for stem in [os.path.join(folder, *parts[:end])]
                         for path in (f"{stem}.py", os.path.join(stem, "__init__.py")) if os.path.isfile(path)]
                for path in reversed(paths):
                    self.add(path)
                if paths:
                    break

    def follow(self) -> list[str]:
        """Add what the files import or name, and what those do, and so on. Return the names."""
        done = 0
        while done < len(self.names):
            path = list(self.names)[done]
            done += 1
            if os.path.splitext(path)[1].lower() in DATA_SUFFIXES:
                continue
            text, folder = _read(path).decode("utf-8", "replace"), os.path.dirname(path)
            if path.endswith((".py", ".pyi", ".pyx")) and (parts := _parse(text)) is not None:
                for level, modules in parts.imports.items():
                    above = os.path.normpath(os.path.join(folder, *[".."] * (level - 1)))
                    self.add_modules(modules, [above] if level else [folder, self.project])
                text = "\n".join(parts.strings)
            else:
                text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
                self.add_modules(_MODULE_OPTION.findall(text), [folder, self.project])
            self.add_text(text, folder)
        return list(self.names.values())


class _Parts:
    """The references in a Python file. imports: modules by the number of dots before them; strings: its texts."""

    def __init__(self) -> None:
        self.imports: dict[int, list[str]] = {}
        self.strings: list[str] = []


def _parse(text: str) -> _Parts | None:
    """Return the references in a Python file; None if it is not of this Python's syntax."""
    import ast  # few commands need it

    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None
    parts = _Parts()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            parts.imports.setdefault(0, []).extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = f"{node.module}." if node.module else ""
            parts.imports.setdefault(node.level, []).extend(f"{prefix}{alias.name}" for alias in node.names)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts.strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)
                     and isinstance(node.value, str) and id(node) not in docstrings]
    return parts


def _is_left_out(relative: str) -> bool:
    """Return whether a file of the project is neither its source nor settings: of a batch, an environment, a cache."""
    folders = os.path.dirname(relative).split(os.sep)
    return relative.startswith(f"jobs{os.sep}") or any(
        folder in _NOT_SOURCES or folder.startswith(".") for folder in folders if folder)


def _read(path: str) -> bytes:
    try:
        return files.read_bytes(path) or b""
    except OSError:
        return b""
