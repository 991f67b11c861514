"""Import rules: no cycles, an explicit list of allowed imports per folder, and no heavy library at start-up.

Two checks complement each other: what a fresh interpreter loads when it imports a folder's modules, indirectly too; and
which modules of `src` the source names anywhere, inside functions and under TYPE_CHECKING as well.
"""
from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Folder of src: the other folders of src that its modules may import. Modules directly in src are the common ground:
# `src/errors.py`, `src/io`, `src/checks` and `src/archive` lie below them, everything else may import them.
BASE = {"", "io", "checks", "archive"}
ABOVE = BASE | {"code", "monitoring"}
SUBMISSION = ["system", "spec", "batch", "storage", "slurm", "usage", "slots", "status", "searches", "job", "planning",
              "execution"]
SEEN = {f"submission/{name}" for name in ("system", "spec", "batch", "slurm", "usage", "status")}  # what people look at
ALLOWED: dict[str, set[str]] = {
    "io": {""},
    "checks": {"", "io"},
    "archive": {"io"},
    "": {"io", "checks", "archive"},
    "code": BASE,
    "monitoring": {"io"},
    "pretrained": BASE,
    "search": BASE,
    # each of these may import those before it
    **{f"submission/{name}": ABOVE | {"search"} | {f"submission/{below}" for below in SUBMISSION[:index]}
       for index, name in enumerate(SUBMISSION)},
    "terminal": ABOVE | {"search"} | SEEN,
    "terminal/live": ABOVE | {"search", "terminal"} | SEEN,
    # the commands of experiments.py: on top of everything
    "commands": ABOVE | {"search"} | {
        *(f"submission/{name}" for name in (*SUBMISSION, "packing", "remote", "doctor", "setup")),
        "terminal", "terminal/live", "analysis", "analysis/reading", "analysis/tables", "analysis/plotting",
        "analysis/page", "dashboard", "datasets", "models", "tracking", "training"},
    "submission/packing": ABOVE | {"submission/system", "submission/slurm"},
    "submission/remote": ABOVE | {"submission/system", "submission/spec", "submission/batch", "submission/packing"},
    "submission/doctor": ABOVE | {"submission/system", "submission/slurm", "submission/packing"},
    "submission/setup": ABOVE | {"submission/system", "submission/batch", "submission/slurm", "submission/status"},
    "analysis/reading": ABOVE | {"search"},
    "analysis/tables": BASE | {"search", "analysis/reading"},
    "analysis/plotting": BASE | {"search", "analysis/reading", "analysis/tables"},
    "analysis/page": ABOVE | {"search", "analysis/reading", "analysis/tables", "analysis/plotting"},
    "analysis": ABOVE | {"search", "analysis/reading", "analysis/tables", "analysis/plotting", "analysis/page"},
    "dashboard": BASE | {"analysis/page", "analysis/reading"},
    "datasets": BASE | {"pretrained"},
    "models": BASE | {"pretrained"},
    "optimizers": BASE,
    "tracking": BASE | {"monitoring"},
    # the subfolders of training are given built objects, and name their types
    "training/setup": ABOVE | {"datasets", "optimizers", "pretrained"},
    "training/parallel": BASE | {"datasets", "training/setup"},
    "training/steps": BASE | {"datasets", "optimizers", "training/setup", "training/parallel"},
    "training/output": BASE | {"monitoring", "datasets", "training/setup", "training/parallel"},
    "training/stacked": BASE | {"datasets", "models", "optimizers", "training/setup", "training/parallel",
                                "training/steps", "training/output", "training"},
    "training": ABOVE | {"datasets", "models", "optimizers", "tracking", "training/setup", "training/parallel",
                        "training/steps", "training/output"},
}
# Top folder of src: third-party libraries that it may load at import time; others are imported inside functions.
LIBRARIES: dict[str, set[str]] = {
    "io": {"yaml"}, "checks": {"yaml"}, "archive": {"yaml"}, "": {"yaml"}, "code": {"yaml"}, "search": {"yaml"},
    "monitoring": {"yaml"}, "pretrained": {"yaml"}, "submission": {"yaml"},
    "terminal": {"yaml", "rich.console", "rich.live", "rich.text"},  # rich is loaded by the live views only
    "commands": {"yaml"},
    "analysis": {"yaml", "numpy", "pandas", "matplotlib.pyplot"},
    "dashboard": {"yaml", "numpy", "pandas", "matplotlib.pyplot", "tornado.web"},
    "datasets": {"yaml", "torch"}, "models": {"yaml", "torch"}, "optimizers": {"yaml", "torch"},
    "tracking": {"yaml", "loguru"},
    "training": {"yaml", "torch", "pandas", "loguru"},
}
# (importing module, imported module): why this import may point upward or close a cycle
EXCEPTIONS: dict[tuple[str, str], str] = {}

SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *ROOT.glob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
           for path in sorted((ROOT / "src").rglob("*.py"))}
FOLDERS = sorted({path.parent.relative_to(ROOT / "src").as_posix().removeprefix(".") for path in MODULES.values()
                  if path.name != "__init__.py"})
ENTRY_POINTS = sorted(path.stem for path in ROOT.glob("*.py"))

LOADED = """
import importlib, json, sys
libraries, modules = json.loads(sys.argv[1])
for name in libraries:
    importlib.import_module(name)
before = set(sys.modules)
for name in modules:
    importlib.import_module(name)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def folder_of(module: str) -> str:
    """The folder of a module of src, relative to src."""
    return MODULES[module].parent.relative_to(ROOT / "src").as_posix().removeprefix(".")


def imported_by(path: Path) -> set[str]:
    """The modules of src that a source file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write from src.… import"
            if node.module and node.module.split(".")[0] == "src":
                # `from src.io import files` imports src.io.files
                names |= {full if (full := f"{node.module}.{alias.name}") in MODULES else node.module
                          for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "src"}
    return names


GRAPH = {module: imported_by(path) - {module} for module, path in MODULES.items()}


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import cycle in order; empty if there is none."""
    finished: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module):], module]
        if module not in finished:
            for other in sorted(graph.get(module, ())):
                if cycle := visit(other, [*trail, module]):
                    return cycle
            finished.add(module)
        return []

    return next(filter(None, (visit(module, []) for module in graph)), [])


def test_cycle_in_finds_a_cycle() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_import_cycles() -> None:
    graph = {module: {other for other in others if (module, other) not in EXCEPTIONS}
             for module, others in GRAPH.items()}
    assert cycle_in(graph) == []


def test_every_folder_is_listed() -> None:
    assert set(FOLDERS) == set(ALLOWED), "a new folder of src: add to ALLOWED which folders it may import"


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_allowed_folders(module: str) -> None:
    folder = folder_of(module)
    others = {other: folder_of(other) for other in GRAPH[module]
              if other in MODULES and other != "src.errors" and (module, other) not in EXCEPTIONS}
    below_ground = folder in ("io", "checks")
    wrong = {other for other, place in others.items()
             if place != folder and place not in ALLOWED[folder] or below_ground and place == ""}
    assert not wrong, f"{module} may not import {sorted(wrong)}; see ALLOWED"


def test_exceptions_exist() -> None:
    assert [pair for pair in EXCEPTIONS if pair[1] not in GRAPH[pair[0]]] == [], "remove these from EXCEPTIONS"


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_stay_small(folder: str) -> None:
    modules = [name for name, path in MODULES.items() if folder_of(name) == folder and path.name != "__init__.py"]
    assert len(modules) <= 14, "split the folder: one reason each, about 13 modules at most"


def loaded_by(modules: list[str], libraries: set[str]) -> list[str]:
    """The modules that importing `modules` loads in a fresh interpreter, beyond those that `libraries` load."""
    done = subprocess.run([sys.executable, "-c", LOADED, json.dumps([sorted(libraries), modules])], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    loaded: list[str] = json.loads(done.stdout)
    return loaded


def third_party(loaded: list[str]) -> set[str]:
    """The top-level packages among `loaded` that are neither Python's nor ours."""
    return {name.split(".")[0] for name in loaded} - sys.stdlib_module_names - {"src", "_yaml", *ENTRY_POINTS}


@pytest.mark.parametrize("top", LIBRARIES)
def test_folder_loads_only_its_libraries(top: str) -> None:
    modules = [module for module in MODULES if folder_of(module).split("/")[0] == top]
    extra = third_party(loaded_by(modules, LIBRARIES[top]))
    assert not extra, f"src/{top} loads {extra}: import it inside the function that needs it"


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_entry_point_starts_light(entry: str) -> None:
    # a dry run on a login node, and the claim of a run before torch is loaded, cost what `import yaml` costs
    assert not third_party(loaded_by([entry], {"yaml"}))


def docstring(path: Path) -> str:
    """The first line of a module's docstring, without its full stop; empty if there is none."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0].removesuffix(".")


def test_every_module_has_a_docstring() -> None:
    silent = [str(path.relative_to(ROOT)) for path in SOURCES if path.stat().st_size and not docstring(path)]
    assert not silent, "a docstring's first line becomes the module's line in the tree of docs/architecture.md"


def test_every_folder_says_what_it_is_for() -> None:
    for path in sorted((ROOT / "src").rglob("__init__.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        lines = [line for line in text.splitlines() if line]
        assert 2 <= len(lines) <= 5, f"{path}: what the folder is for, what may import it, and where to begin"
        assert "import" in text and "begin" in text.lower(), path
        for name in re.findall(r"`(\w+\.py)`", text):
            assert (path.parent / name).exists(), f"{path}: {name}"
