"""Who may import whom: login nodes never wait for torch, and a part can be read and replaced without the others.

Two looks, since each misses something: what a fresh interpreter has loaded after importing a layer, through others too;
and which parts of src the source names anywhere, in a function too.
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

# layer: the layers beside itself and the ground that it may name, and the libraries that it may load as it is imported,
# with all that those bring along; further ones inside the branch that needs them. Ground: the modules right in src.
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    "ground": (set(), {"yaml"}),
    "submission": (set(), {"yaml"}),
    "analysis": (set(), {"yaml", "numpy", "pandas", "matplotlib.pyplot"}),
    "datasets": (set(), {"yaml", "torch"}),
    "models": (set(), {"yaml", "torch"}),
    "optimizers": (set(), {"yaml", "torch"}),
    "tracking": (set(), {"yaml", "loguru"}),
    # it is given built objects, and names their types
    "training": ({"datasets", "optimizers", "tracking"}, {"yaml", "torch", "pandas", "loguru"}),
}
FOLDERS = sorted(folder.name for folder in (ROOT / "src").iterdir() if any(folder.glob("*.py")))
ENTRY_POINTS = sorted(path.stem for path in ROOT.glob("*.py"))
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *ROOT.glob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])

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


def modules_of(layer: str) -> list[str]:
    """Dotted names of the layer's modules."""
    folder = ROOT / "src"
    paths = folder.glob("*.py") if layer == "ground" else (folder / layer).rglob("*.py")
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths)


def layer_of(module: str) -> str:
    """The layer of `src.…`: a folder of src, or the ground."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else "ground"


def loaded_by(modules: list[str], libraries: set[str]) -> list[str]:
    """What importing `modules` loads in a fresh interpreter, beyond what `libraries` load."""
    done = subprocess.run([sys.executable, "-c", LOADED, json.dumps([sorted(libraries), modules])], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    loaded: list[str] = json.loads(done.stdout)
    return loaded


def strangers(loaded: list[str]) -> set[str]:
    """The top-level packages among `loaded` that are neither Python's nor ours."""
    return {name.split(".")[0] for name in loaded} - sys.stdlib_module_names - {"src", "_yaml", *ENTRY_POINTS}


def test_every_folder_is_a_layer() -> None:
    assert set(FOLDERS) <= set(LAYERS), "a new folder in src: say in LAYERS what it may import"


@pytest.mark.parametrize("layer", ["ground", *FOLDERS])
def test_layer_loads_only_what_it_may(layer: str) -> None:
    friends, libraries = LAYERS[layer]
    loaded = loaded_by(modules_of(layer), libraries)
    assert not strangers(loaded), f"src/{layer} loads {strangers(loaded)}: import it inside the branch that needs it"
    ours = {layer_of(name) for name in loaded if name.startswith("src.")}
    assert ours <= {"ground", layer} | friends


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_entry_point_starts_light(entry: str) -> None:
    # a dry run on a login node, and the claim of a run before torch is loaded, take what `import yaml` takes
    assert not strangers(loaded_by([entry], {"yaml"}))


def named_in(path: Path) -> set[str]:
    """The modules of src that a source file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # `from src import files` names src.files
            names |= {f"src.{alias.name}" for alias in node.names} if node.module == "src" else {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert not isinstance(node, ast.ImportFrom), f"{path}: relative import; write from src.… import"
    return {name for name in names if name.startswith("src.")}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.is_relative_to(ROOT / "src")],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_source_names_only_its_layers(path: Path) -> None:
    parts = path.relative_to(ROOT / "src").parts
    layer = parts[0] if len(parts) > 1 else "ground"
    assert {layer_of(name) for name in named_in(path)} <= {"ground", layer} | LAYERS[layer][0]


def docstring(path: Path) -> str:
    """The first line of a module's docstring, without its full stop; empty if there is none."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0].removesuffix(".")


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(path.relative_to(ROOT)) for path in SOURCES if path.stat().st_size and not docstring(path)]
    assert not silent, "a docstring's first line is the module's line in the file tree of docs/architecture.md"


ARCHITECTURE = ROOT / "docs" / "architecture.md"


def tree() -> dict[str, str]:
    """Return path and description of each line of the file tree: the fenced block under `<!-- tree -->`.

    A line is a name, two blanks or more, and a description; a folder's lines stand two blanks further in.
    """
    block = re.search(r"<!-- tree -->\n+```\w*\n(.*?)\n```", ARCHITECTURE.read_text(), re.DOTALL)
    assert block, "docs/architecture.md has no fenced block under a line <!-- tree -->"
    found, folders = {}, []
    for line in block[1].splitlines():
        indent, name, description = re.fullmatch(r"((?:  )*)(\S+)\s*(.*)", line).groups()  # type: ignore[union-attr]
        folders[len(indent) // 2:] = [name.rstrip("/")]
        assert "/".join(folders) not in found, f"two lines for {'/'.join(folders)}"
        found["/".join(folders)] = description
    return found


def test_file_tree() -> None:
    told = tree()
    assert [path for path in told if not (ROOT / path).exists()] == [], "these are in the tree and nowhere else"
    ours = [path for path in SOURCES if path.parent == ROOT or path.is_relative_to(ROOT / "src")]
    truth = {str(path.relative_to(ROOT)): docstring(path) for path in ours if path.name != "__init__.py"}
    wrong = {path: line for path, line in truth.items() if told.get(path, "").removesuffix(".") != line}
    lines = [f"{path:30} {line}" for path, line in wrong.items()]
    assert not wrong, "the file tree in docs/architecture.md should have:\n" + "\n".join(lines)
