"""Versions of code among runs, by the hashes of the files that each may execute."""
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from src.code.code_versions import Version, differing_files, line, versions

HASHES = st.dictionaries(st.sampled_from(["a.py", "b.py", "c.py"]), st.sampled_from("123"))


def test_line_counts_the_runs_of_each_version() -> None:
    old, new = {"mine.py": "1", "helper.py": "x"}, {"mine.py": "2", "helper.py": "x"}
    found = versions([old] * 10 + [new] * 3 + [{}])
    assert found == [Version(10, {"mine.py": "1"}), Version(3, {"mine.py": "2"})]
    assert line(found) == "code: 2 versions in 13 runs (mine.py: 10 and 3 runs)"
    assert line(versions([old] * 3)) == line([]) == ""


def test_more_than_three_files_are_counted() -> None:
    found = versions([dict.fromkeys("abcde", digest) for digest in "123"])
    assert line(found) == ("code: 3 versions in 3 runs (a: 1, 1 and 1 runs; b: 1, 1 and 1 runs; c: 1, 1 and 1 runs; "
                           "2 more files)")


@given(st.lists(HASHES))
def test_versions_differ_exactly_where_files_do(run_files: list[dict[str, str]]) -> None:
    found, names = versions(run_files), differing_files(run_files)
    assert sum(version.runs for version in found) == sum(map(bool, run_files))
    assert set(names) == {name for name in "abc" for name in [f"{name}.py"]
                          if len({item[name] for item in run_files if name in item}) > 1}
    assert all(list(version.files) == names for version in found)
    assert bool(line(found)) == (len(found) > 1)
