"""tools/packages.py installs with uv, configured as pip is, and with pip where uv is unavailable or fails."""
from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import ROOT
from tools import packages

# a program that records how it was called, then acts: as the Python of an environment, whose pip it plays, or as uv
FAKE = """#!{python}
import json, os, shutil, sys
from pathlib import Path

folder = Path(sys.argv[0]).parent
record = {{"program": sys.argv[0], "words": sys.argv[1:], "environment": dict(os.environ)}}
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(record) + "\\n")
words = sys.argv[1:]
if words[:4] == ["-m", "pip", "config", "list"]:
    print(os.environ.get("PIP_LISTING", ""))
elif words[:3] == ["-m", "pip", "install"] and words[-1].startswith("uv=="):
    if os.environ.get("UV_MISSING"):
        sys.exit("looking for uv\\nERROR: No matching distribution found for " + words[-1])
    shutil.copy(sys.argv[0], folder / "uv")
elif words == ["--version"]:
    print("uv", os.environ.get("UV_FAKE_VERSION", "1.2.3"))
elif words == ["cache", "dir"]:
    print(os.environ["CACHE"])
elif words[:2] == ["pip", "install"]:
    print("Resolved 2 packages in 1ms", "Downloading a", "Installed 2 packages in 1ms", sep="\\n", file=sys.stderr)
    if os.environ.get("UV_FAILS"):
        print("error: Request failed", "  cause: Failed to fetch: https://me:hidden@mirror/a/", "  cause: client error",
              "  cause: Connection refused", sep="\\n", file=sys.stderr)
        sys.exit(2)
"""


class Call(NamedTuple):
    """A call of a fake program, by its path."""

    program: str
    words: list[str]
    environment: dict[str, str]


class Project:
    """A folder with a lock file and an environment whose Python is a fake."""

    def __init__(self, folder: Path) -> None:
        self.lock = folder / "requirements.lock"
        self.lock.write_text("a==1\nuv==1.2.3\n")
        self.home = folder / ".venv"
        self.calls_file = folder / "calls"
        for environment in (self.home, folder / "other"):
            (environment / "bin").mkdir(parents=True)
            (environment / "bin/python").write_text(FAKE.format(python=sys.executable))
            (environment / "bin/python").chmod(0o755)

    def install(self, environment: str = ".venv", installer: str = "uv") -> int:
        return packages.install(self.lock, self.home.parent / environment, installer, self.home, self.lock)

    def calls(self) -> list[Call]:
        return [Call(**json.loads(line)) for line in self.calls_file.read_text().splitlines()]

    def uv_call(self) -> Call:
        call, = (call for call in self.calls() if call.words[:2] == ["pip", "install"])
        return call

    def pip_calls(self) -> list[list[str]]:
        return [call.words for call in self.calls() if call.words[:3] == ["-m", "pip", "install"]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in os.environ:
        if name.startswith(("UV_", "PIP_", "SSL_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("CACHE", str(tmp_path / "cache"))
    return Project(tmp_path)


def listing(**settings: str) -> str:
    """The output of `pip config list` for values of [global]."""
    return "\n".join(f"global.{name.replace('_', '-')}={value!r}" for name, value in settings.items())


def variables(settings: dict[str, str], **environment: str) -> dict[str, str]:
    """The variables that are set for uv."""
    return {name: value for name, value in packages.uv_variables(settings, environment).items()
            if name not in environment}


def test_uv_installs_the_lock_at_its_pinned_version(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.install() == 0
    assert [words[-1] for words in project.pip_calls()] == ["uv==1.2.3"]
    words = project.uv_call().words
    assert words[words.index("--python") + 1] == str(project.home / "bin/python")
    assert words[-2:] == ["--requirement", str(project.lock)]
    *stages, last = capsys.readouterr().out.splitlines()
    assert stages == ["Installing uv 1.2.3", "Installing requirements.lock into .venv with uv",
                      "  Resolved 2 packages in 1ms", "  Installed 2 packages in 1ms"]
    assert re.fullmatch(r"\.venv is ready after \d+ s", last)


def test_the_lock_file_that_is_installed_is_not_installed_again(project: Project,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    assert project.install() == 0
    calls = len(project.calls())
    os.utime(project.lock)  # newer, with the same content
    assert project.install() == 0
    assert len(project.calls()) == calls
    project.lock.write_text("a==2\nuv==1.2.3\n")
    capsys.readouterr()
    assert project.install() == 0
    assert len(project.calls()) > calls
    assert "is a link" not in capsys.readouterr().out


def test_a_failed_installation_is_repeated(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.install(installer="pip") == 0
    first = project.lock.read_text()
    project.lock.write_text("a==2\nuv==1.2.3\n")
    monkeypatch.setattr(packages.subprocess, "call", lambda *_: 1)
    assert project.install(installer="pip") == 1
    project.lock.write_text(first)
    assert project.install(installer="pip") == 1, "the packages of the first one may be gone"


def test_installing_through_a_link_is_announced(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.home.parent / "linked").symlink_to("other")
    assert project.install("linked") == 0
    assert f"note: linked is a link to {project.home.parent / 'other'}" in capsys.readouterr().out


@pytest.mark.parametrize(("version", "downloads"), [("1.2.3", 0), ("1.2.2", 1), ("1.2.33", 1)])
def test_an_installed_uv_of_the_pinned_version_is_reused(project: Project, monkeypatch: pytest.MonkeyPatch,
                                                         version: str, downloads: int) -> None:
    monkeypatch.setenv("UV_FAKE_VERSION", version)
    (project.home / "bin/uv").write_text((project.home / "bin/python").read_text())
    (project.home / "bin/uv").chmod(0o755)
    assert project.install() == 0
    assert len(project.pip_calls()) == downloads


def test_another_environment_is_installed_by_the_uv_of_the_first(project: Project) -> None:
    assert project.install("other") == 0
    words = project.uv_call().words
    assert words[words.index("--python") + 1] == str(project.home.parent / "other/bin/python")
    assert not (project.home.parent / "other/bin/uv").exists(), "it holds what its lock names, and nothing else"


@pytest.mark.parametrize(("name", "value", "reason"), [
    ("UV_MISSING", "1", "uv 1.2.3 could not be installed (ERROR: No matching distribution found for uv==1.2.3)"),
    ("UV_FAILS", "1", "uv failed with exit code 2 (Request failed: Failed to fetch: https://***@mirror/a/: "
                      "Connection refused)"),
    ("PIP_LISTING", "global.target='/elsewhere'", "pip is configured with target, which is not translated for uv"),
])
def test_pip_installs_where_uv_cannot(project: Project, capsys: pytest.CaptureFixture[str],
                                      monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str) -> None:
    monkeypatch.setenv(name, value)
    assert project.install("other") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines.count(f"{reason}: using pip instead, which takes some minutes") == 1
    last = project.calls()[-1]
    assert last.program == str(project.home.parent / "other/bin/python")
    assert last.words[:3] == ["-m", "pip", "install"] and last.words[-2:] == ["--requirement", str(project.lock)]
    assert lines[-2] == "Installing requirements.lock into other with pip"


def test_pip_installs_where_the_lock_pins_no_uv(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.lock.write_text("a==1\n")
    assert project.install() == 0
    assert "requirements.lock does not pin uv: using pip instead" in capsys.readouterr().out


def test_pip_installs_if_asked_for(project: Project) -> None:
    assert project.install(installer="pip") == 0
    assert [call.words[-2:] for call in project.calls()] == [["--requirement", str(project.lock)]]


def test_an_interrupt_does_not_start_pip(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packages, "run_uv", interrupt)
    with pytest.raises(KeyboardInterrupt):
        project.install()
    assert [words[-1] for words in project.pip_calls()] == ["uv==1.2.3"]


def test_the_exit_code_of_pip_is_passed_on(project: Project) -> None:
    (project.home / "bin/python").write_text("#!/bin/sh\nexit 7\n")
    assert project.install() == 7


def test_passwords_reach_uv_through_the_environment_only(project: Project, capsys: pytest.CaptureFixture[str],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://me:hidden@mirror/simple"
    monkeypatch.setenv("PIP_LISTING", listing(index_url=url, proxy="http://me:hidden@proxy:3128", find_links=url))
    monkeypatch.setenv("UV_FAILS", "1")
    assert project.install() == 0
    environment = project.uv_call().environment
    assert environment["UV_DEFAULT_INDEX"] == environment["UV_FIND_LINKS"] == url
    assert environment["HTTPS_PROXY"] == "http://me:hidden@proxy:3128"
    assert "hidden" not in str([call.words for call in project.calls()]) + str(capsys.readouterr())


def test_pip_config_is_read_in_its_order_of_precedence() -> None:
    listed = """For variant 'global', will try loading '/etc/pip.conf'
:env:.index-url='https://c/simple'
:env:.default-timeout='60'
:env:.cert=''
global.cert='/etc/certificates.pem'
global.index-url='https://a/simple'
global.timeout='15'
install.index-url='https://b/simple'
install.no-binary='x,y'
global.extra-index-url='\\nhttps://d/simple\\nhttps://e/simple'
list.format='columns'"""
    assert packages.parse_pip_config(listed) == {
        "index-url": "https://c/simple", "timeout": "60", "cert": "/etc/certificates.pem", "no-binary": "x,y",
        "extra-index-url": "\nhttps://d/simple\nhttps://e/simple"}


def test_pip_options_become_variables_of_uv() -> None:
    assert variables({
        "index-url": "https://a/simple", "extra-index-url": "\nhttps://b/simple\nfile:///c/simple",
        "find-links": "/wheels https://d/wheels", "constraint": "/etc/pip/constraints.txt", "trusted-host": "a b:8080",
        "timeout": "7.5", "retries": "9", "cert": "/etc/a.pem", "client-cert": "/etc/b.pem", "proxy": "proxy:3128",
        "pre": "true", "keyring-provider": "subprocess", "disable-pip-version-check": "1", "user": "false",
    }) == {
        "UV_DEFAULT_INDEX": "https://a/simple", "UV_INDEX": "https://b/simple file:///c/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,https://d/wheels", "UV_CONSTRAINT": "/etc/pip/constraints.txt",
        "UV_INSECURE_HOST": "a b:8080", "UV_HTTP_TIMEOUT": "8", "UV_HTTP_RETRIES": "9", "SSL_CERT_FILE": "/etc/a.pem",
        "SSL_CLIENT_CERT": "/etc/b.pem", "HTTP_PROXY": "proxy:3128", "HTTPS_PROXY": "proxy:3128",
        "http_proxy": "proxy:3128", "https_proxy": "proxy:3128", "UV_PRERELEASE": "allow",
        "UV_KEYRING_PROVIDER": "subprocess"}


def test_variables_of_uv_that_are_set_stay() -> None:
    environment = {"UV_DEFAULT_INDEX": "https://mine/simple", "UV_COMPILE_BYTECODE": "0",
                   "PYTHONDONTWRITEBYTECODE": "1"}
    settings = {"index-url": "https://a/simple", "extra-index-url": "https://b/simple"}
    combined = packages.uv_variables(settings, environment)
    assert combined["UV_DEFAULT_INDEX"] == "https://mine/simple" and combined["UV_COMPILE_BYTECODE"] == "0"
    assert combined["UV_INDEX"] == "https://b/simple"


def test_bytecode_is_compiled_where_python_would_not_write_it() -> None:
    assert variables({}, PYTHONDONTWRITEBYTECODE="1", SSL_CERT_FILE="/a.pem") == {"UV_COMPILE_BYTECODE": "1"}
    assert variables({}, PYTHONDONTWRITEBYTECODE="", SSL_CERT_FILE="/a.pem") == {}


def test_certificates_are_those_that_pip_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def certificates(settings: dict[str, str], **environment: str) -> dict[str, str]:
        return {name: value for name, value in variables(settings, **environment).items() if "CERT" in name}

    monkeypatch.setenv("HOME", str(tmp_path))
    assert certificates({"cert": "~/a.pem"}, SSL_CERT_DIR="/etc/ssl") == {"SSL_CERT_FILE": f"{tmp_path}/a.pem"}
    assert certificates({"cert": str(tmp_path)}) == {"SSL_CERT_DIR": str(tmp_path)}
    assert certificates({}, REQUESTS_CA_BUNDLE="/b.pem", CURL_CA_BUNDLE="/c.pem") == {"SSL_CERT_FILE": "/b.pem"}
    assert certificates({}, CURL_CA_BUNDLE="/c.pem") == {"SSL_CERT_FILE": "/c.pem"}
    assert certificates({}, SSL_CERT_FILE="/d.pem", CURL_CA_BUNDLE="/c.pem") == {}
    for file, wanted in (("/etc/system.pem", {"UV_SYSTEM_CERTS": "1"}), (None, {})):
        paths = ssl.DefaultVerifyPaths(file, None, "", "", "", "")
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda paths=paths: paths)
        assert certificates({}) == wanted


def test_pip_options_become_arguments_of_uv() -> None:
    assert packages.uv_arguments({"no-index": "yes", "no-binary": "x,y z", "only-binary": ":all:", "no-deps": "0"}) == [
        "--no-index", "--no-binary=x", "--no-binary=y", "--no-binary=z", "--only-binary=:all:"]
    assert packages.uv_arguments({"no-index": "false"}) == []
    with pytest.raises(packages.UvError, match="no-deps, target"):
        packages.uv_arguments({"target": "/elsewhere", "no-deps": "1"})


@pytest.mark.parametrize(("environment", "is_same_disk", "cache"), [
    ({}, True, None), ({}, False, ".uv-cache"), ({"PIP_LISTING": ":env:.no-cache-dir='1'"}, True, ".uv-cache"),
    ({"UV_CACHE_DIR": "/mine"}, False, "/mine"), ({"UV_NO_CACHE": "1"}, False, None),
])
def test_a_cache_on_another_disk_is_not_filled(project: Project, monkeypatch: pytest.MonkeyPatch,
                                               environment: dict[str, str], is_same_disk: bool,
                                               cache: str | None) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(packages, "_device", lambda path: is_same_disk or path)
    (project.home / ".uv-cache").mkdir()  # of an installation that was killed
    assert project.install() == 0
    expected = str(project.home / cache) if cache else None  # an absolute path stays as it is
    assert project.uv_call().environment.get("UV_CACHE_DIR") == expected
    assert (project.home / ".uv-cache").exists() == (cache != ".uv-cache"), "a temporary cache is removed"


def test_the_device_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert packages._device(tmp_path / "no/such/cache") == tmp_path.stat().st_dev


def wheel(folder: Path, name: str, version: str) -> None:
    """Write a wheel with one module, which holds its version."""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        info = f"{name}-{version}.dist-info"
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def run(python: str | Path, words: Sequence[str | Path], folder: Path, **environment: str) -> str:
    """Run a Python in a folder and return what it prints."""
    done = subprocess.run([python, *words], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, "PIP_CONFIG_FILE": os.devnull, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PROGRAM = ROOT / "tools/packages.py"
needs_uv = pytest.mark.skipif(not (packages.HOME / "bin/uv").exists(), reason=".venv was not made by `make`")


@needs_uv
def test_a_real_uv_follows_the_configuration_of_pip(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for version in ("1.0", "2.0", "3.0"):
        wheel(wheels, "tiny", version)
    (tmp_path / "constraints.txt").write_text("tiny<3\n")
    (tmp_path / "requirements.lock").write_text("tiny\n")  # not pinned, so that constraints have something to choose
    (tmp_path / "pip.conf").write_text(f"[global]\nno-index = true\n[install]\nfind-links =\n  {wheels}\n"
                                       f"constraint = {tmp_path / 'constraints.txt'}\n")
    run(sys.executable, ["-m", "venv", "--without-pip", "environment"], tmp_path)
    printed = run(sys.executable, [PROGRAM, "install", "requirements.lock", "environment"], tmp_path,
                  PIP_CONFIG_FILE=str(tmp_path / "pip.conf"), PIP_FIND_LINKS="", PIP_CONSTRAINT="",
                  PIP_NO_CACHE_DIR="1", PYTHONDONTWRITEBYTECODE="1")
    assert "Installed 1 package" in printed and "using pip instead" not in printed
    python = tmp_path / "environment/bin/python"
    assert run(python, ["-c", "import tiny; print(tiny.version)"], tmp_path) == "2.0\n"
    assert list((tmp_path / "environment").rglob("tiny.*.pyc"))
    assert not (tmp_path / "environment/.uv-cache").exists()


@needs_uv
def test_uv_runs_with_the_configuration_of_pip(tmp_path: Path) -> None:
    wheel(tmp_path, "tiny", "1.0")
    (tmp_path / "in.txt").write_text("tiny\n")
    printed = run(sys.executable, [PROGRAM, "uv", "pip", "compile", "--quiet", "--no-header", "in.txt"], tmp_path,
                  PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path), UV_NO_CACHE="1")
    assert printed.split()[0] == "tiny==1.0"
    assert str(tmp_path) not in printed.replace(str(tmp_path / "in.txt"), ""), "where packages come from is not locked"
