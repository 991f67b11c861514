from __future__ import annotations

import sys
from pathlib import Path

import pytest

from src.checks import user_code
from src.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules can be imported, and are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_whose_name_it_is() -> None:
    assert user_code.is_user_code("mine:make") and user_code.is_user_code("lab.mine:make")
    assert not any(map(user_code.is_user_code, ("timm/hf-hub:me/net", "hf/csv:reviews", "linear", "libsvm/a9a")))


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
