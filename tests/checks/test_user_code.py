from __future__ import annotations

import sys
from pathlib import Path

import pytest

from src.checks import user_code
from src.checks.registered_names import is_user_code
from src.errors import BatchError, ConfigError
from src.io import ownership, user_settings
from tests.conftest import trust_modules


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules can be imported, and are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    trust_modules(monkeypatch, tmp_path, "quiet_one", "a_lab", "good_one", "bad_one")
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_whose_name_it_is() -> None:
    assert is_user_code("mine:make") and is_user_code("lab.mine:make")
    assert not any(map(is_user_code, ("timm/hf-hub:me/net", "hf/csv:reviews", "linear", "libsvm/a9a")))


def test_the_check_imports_nothing(folder: Path) -> None:
    (folder / "quiet_one.py").write_text("raise RuntimeError")
    (folder / "a_lab").mkdir()
    (folder / "a_lab" / "__init__.py").write_text("raise RuntimeError")
    (folder / "a_lab" / "inner.py").write_text("")
    user_code.check("quiet_one:make")
    user_code.check("a_lab.inner:make")
    assert "quiet_one" not in sys.modules and "a_lab" not in sys.modules


@pytest.mark.parametrize(("name", "message"), [
    ("no-module:make", "'no-module:make' is not of the form module:name; allowed: module:name"),
    ("mine:", "is not of the form"),
    ("mine:a.b", "is not of the form"),
    ("trian:main", "module 'trian' not found; .*did you mean 'train:main'"),
    ("src.logz:load", "module 'src.logz' not found; .*did you mean 'src.logs:load'"),
    ("train.py:main", "is a file name; write the module's name: train:main"),
])
def test_invalid_name_is_rejected(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        user_code.check(name)


def test_load_returns_the_attribute(folder: Path) -> None:
    (folder / "good_one.py").write_text("def make_dataset():\n    return 1\n")
    assert user_code.load("good_one:make_dataset", "dataset")() == 1
    with pytest.raises(ConfigError, match=r"^dataset: good_one has no 'make_datset' \(.*good_one.py\);? did you mean"):
        user_code.load("good_one:make_datset", "dataset")
    with pytest.raises(ConfigError, match="it defines make_dataset$"):
        user_code.load("good_one:xyz", "dataset")


@pytest.mark.parametrize(("text", "message"), [
    ("import os\nimport no_such_library\n", r"bad_one.py, line 2: ModuleNotFoundError: No module named 'no_such"),
    ("def f(:\n", r"bad_one.py, line 1: SyntaxError: "),
    ("1 / 0\n", r"bad_one.py, line 1: ZeroDivisionError: "),
])
def test_failing_import_names_file_and_line(folder: Path, text: str, message: str) -> None:
    (folder / "bad_one.py").write_text(text)
    with pytest.raises(ConfigError, match=rf"^model: importing bad_one failed: .*{message}"):
        user_code.load("bad_one:make", "model")


@pytest.mark.parametrize("name", [
    "torch.hub:load", "subprocess:run", "os:system", "builtins:eval", "json:loads", "posix:system", "pickle:loads",
    "importlib.util:spec_from_file_location", "src.checks.user_code:os", "submit_multiple:sys", "src.io.files:json",
    "src.io.files:BinaryIO", "src.run_folder:NamedTuple"])
def test_only_code_of_the_project_is_named(name: str) -> None:
    """A config of somebody else would call it, with options of their choice."""
    with pytest.raises(ConfigError, match="not in this project; allowed: modules in .*trusted_modules in"):
        user_code.load(name, "model")


def test_modules_elsewhere_need_the_users_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_lab").mkdir()
    (tmp_path / "a_lab" / "nets.py").write_text("from subprocess import run\n\ndef make(): return 1\n")
    monkeypatch.setattr(user_settings, "FILE", str(tmp_path / "gridiron.toml"))
    with pytest.raises(ConfigError, match=r"module 'a_lab.nets' is not in this project; .*trusted_modules = \["):
        user_code.check("a_lab.nets:make")
    trust_modules(monkeypatch, tmp_path, "a_lab")
    assert user_code.load("a_lab.nets:make", "model")() == 1
    with pytest.raises(ConfigError, match="a_lab.nets:run is imported from 'subprocess', which is not in this project"):
        user_code.load("a_lab.nets:run", "model")
    trust_modules(monkeypatch, tmp_path, "a")
    with pytest.raises(ConfigError, match="'a_lab.nets' is not in this project"):
        user_code.check("a_lab.nets:make")
    (tmp_path / "gridiron.toml").write_text("trusted_modules = 3\n")
    with pytest.raises(ConfigError, match="invalid trusted_modules 3"):
        user_code.check("a_lab.nets:make")


@pytest.mark.parametrize("folder", ["results", "data", ".venv", "env/lib/python3.11/site-packages", "."])
def test_results_and_environments_in_the_project_are_not_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                  folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "some_nets.py").write_text("")
    monkeypatch.setattr(user_code, "_PROJECT", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path / folder)
    if folder == ".":
        user_code.check("some_nets:make")
        return
    with pytest.raises(ConfigError, match="not in this project"):
        user_code.check("some_nets:make")


@pytest.mark.parametrize("spec", [
    {"model": "train:train"}, {"dataset": "train:train"}, {"loss": "train:train"}, {"task": "train:train"},
    {"metrics": ["accuracy", "train:train"]}, {"eval_datasets": {"a": "train:train@test"}}])
def test_spec_of_another_user_needs_trust(spec: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                          ) -> None:
    user_code.require_trust(spec, False, str(tmp_path))
    user_code.require_trust({"model": "tiny/lenet", "dataset": "hf/a/b:c"}, False, str(tmp_path), owner="mallory")
    for arguments in ({"owner": "mallory"}, {}):
        monkeypatch.setattr(ownership, "other_owner", lambda *paths: "mallory")
        with pytest.raises(BatchError, match="is of mallory, and executes code of this project: .*train:train.*trust"):
            user_code.require_trust(spec, False, str(tmp_path), **arguments)
        user_code.require_trust(spec, True, str(tmp_path), **arguments)
