"""Hosts by name: from the user's file and the project's, with errors that say what there is."""
from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import RemoteError
from src.submission.remote import hosts


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".config").mkdir(parents=True)
    (tmp_path / "my project").mkdir()
    return tmp_path / "my project"


def test_hosts_of_the_project_override_those_of_the_user(project: Path) -> None:
    (project.parent / "home" / ".config" / "gridiron.toml").write_text("""\
[cluster]
ssh = "me@login.example.org"
folder = "~/code/grid"
output_dir = "/scratch/me/results"
[other]
""")
    (project / "hosts.toml").write_text("""\
["gpu box"]
ssh = "box"
options = ["-p", "2222"]
folder = "/data/a 'nice' folder/"
python = "/opt/envs/mine/bin/python"
[other]
setup = ["module load cuda", "conda activate mine"]
""")
    assert hosts.find_host("cluster", str(project)) == hosts.Host(
        "cluster", "me@login.example.org", "code/grid", output_dir="/scratch/me/results")
    assert hosts.find_host("gpu box", str(project)) == hosts.Host(
        "gpu box", "box", "/data/a 'nice' folder", "/opt/envs/mine/bin/python", (), ("-p", "2222"))
    assert hosts.find_host("other", str(project)) == hosts.Host(
        "other", "other", "my project", "python", ("module load cuda", "conda activate mine"))


def test_unknown_name_is_taken_for_the_name_in_ssh(project: Path) -> None:
    assert hosts.find_host("me@node7", str(project)) == hosts.Host("me@node7", "me@node7", "my project")


@pytest.mark.parametrize("name", ["-oProxyCommand=touch x", "a b", "", "a;b", "$(x)", "a\nb", "host:folder", "ä"])
def test_name_that_ssh_could_misread_is_refused(name: str, project: Path) -> None:
    (project / "hosts.toml").write_text("[known]\n[known2]\n")
    with pytest.raises(RemoteError) as error:
        hosts.find_host(name, str(project))
    assert "known, known2" in str(error.value)


def test_misspelled_host_is_refused(project: Path) -> None:
    (project / "hosts.toml").write_text("[cluster]\n")
    with pytest.raises(RemoteError, match=r"unknown host 'clutser'") as error:
        hosts.find_host("clutser", str(project))
    assert "did you mean 'cluster'?" in str(error.value)


@pytest.mark.parametrize(("text", "words"), [
    ("[a]\nfodler = 'x'", "unknown key 'fodler'; allowed: ssh, options, folder, python, setup, output_dir; did you"),
    ("[a]\npassword = 'x'", "unknown key 'password'"),
    ("folder = 'x'", "'folder' is outside of a table"),
    ("[a\n", "not valid TOML"),
    ("[a]\nssh = '-oProxyCommand=x'", "invalid ssh name"),
    ("[a]\nssh = 'a;b'", "invalid ssh name"),
    ("['a b']\n", "invalid ssh name"),
    ("[a]\nfolder = ''", "is not a word or path"),
    ("[a]\nfolder = '~'", "must belong to the project alone"),
    ("[a]\nfolder = '/'", "must belong to the project alone"),
    ("[a]\nfolder = '../x'", "must belong to the project alone"),
    ("[a]\nfolder = \"a\\nb\"", "is not a word or path"),
    ("[a]\nsetup = 'module load x'", "is not a list"),
    ("[a]\noptions = [1]", "is not a word or path")])
def test_invalid_files_are_refused(text: str, words: str, project: Path) -> None:
    (project / "hosts.toml").write_text(text)
    with pytest.raises(RemoteError) as error:
        hosts.find_host("a", str(project))
    assert words in str(error.value)
    assert "hosts.toml" in str(error.value)
