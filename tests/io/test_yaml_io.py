"""YAML as people mean it, and flat files that every YAML reader reads back equal."""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import JobSpecError
from src.io import yaml_io

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(
    ["yes", "off", "1e-3", "12:00:00", "2024-01-01", "007", "~", "null", ".inf", "=", "<<", "0x10", "a: b", "#", ""])
VALUE = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
                     max_leaves=8)
KEY = TEXT | st.sampled_from(["batch_size", "on", "y", "null", "1", "a b", "é", "-", "true", "a: b"])


def same(one: Any, other: Any) -> bool:
    """Equal in type and value, all the way down; NaN is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and str(one) == str(other) or one != one and other != other


@given(st.dictionaries(KEY, VALUE, max_size=6))
@settings(max_examples=300)
def test_flat_files_are_read_back_equal_by_every_reader(mapping: dict[str, Any]) -> None:
    text = yaml_io.dump_flat(mapping)
    assert same(yaml_io.load_flat(text), mapping)
    assert same(yaml_io.load(text, "x") or {}, mapping)
    assert same(yaml.safe_load(text) or {}, mapping)  # YAML 1.1 in pure Python
    assert same(yaml.load(text, yaml.CSafeLoader) or {}, mapping)
    assert text.count("\n") == max(len(mapping), 1)


@given(st.sampled_from(yaml_io.TAGS), st.lists(VALUE, max_size=3) | st.dictionaries(TEXT, VALUE, max_size=3))
def test_tagged_values_are_read_back_equal(tag: str, value: Any) -> None:
    tagged = yaml_io.load(f"!{tag} {yaml_io.dump_value(value)}", "x")
    assert tagged.tag == tag and same(tagged.value, value)
    again = yaml_io.load(f"key: {tagged!r}", "x")["key"]
    assert again.tag == tag and same(again.value, value)


def test_unknown_tags_are_refused() -> None:
    for text in ("!include x.yaml", "!!python/object/apply:os.system [ls]", "!Uniform [0, 1]", "a: !<uniform> [0, 1]"):
        with pytest.raises(JobSpecError, match="tag"):
            yaml_io.load(text, "x")


@given(st.dictionaries(KEY, VALUE, max_size=6), st.data())
def test_the_fast_path_never_reads_an_edited_file_otherwise_than_yaml(mapping: dict[str, Any],
                                                                      data: st.DataObject) -> None:
    text = yaml_io.dump_flat(mapping)
    position = data.draw(st.integers(0, len(text)))
    edited = text[:position] + data.draw(st.sampled_from(list(" \t\n:#'\"-,[]{}&*!|>e.0_"))) + text[position:]
    try:
        expected = yaml_io.load(edited, "x")
    except JobSpecError:
        with pytest.raises(JobSpecError):
            yaml_io.load_flat(edited)
        return
    if expected is None or isinstance(expected, dict) and all(isinstance(key, str) for key in expected):
        assert same(yaml_io.load_flat(edited), expected or {})


@pytest.mark.parametrize(("text", "value"), [
    ("1e-3", 0.001), ("1E5", 100000.0), ("1.", 1.0), (".5", 0.5), ("-1.5e+3", -1500.0), ("1_000", 1000), ("-0", 0),
    ("0x1f", 31), ("0o17", 15), ("0b11", 3), (".inf", math.inf), ("-.inf", -math.inf), ("true", True), ("False", False),
    ("~", None), ("null", None), ("", None), ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"),
    ("12:00:00", "12:00:00"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("007", "007"), ("1.2.3", "1.2.3"),
    ("1e", "1e"), ("e5", "e5"), ("=", "="), ("'1'", "1"), ("0.9,0.99", "0.9,0.99"), ("1-2", "1-2"), ("+", "+")])
def test_scalars_are_intuitive(text: str, value: object) -> None:
    found = yaml_io.load(f"key: {text}\n", "x")["key"]
    assert same(found, value)


@pytest.mark.parametrize("text", ["2024_01", "1e3", "1.10", "0x1F", "+5", "007", "12:30", "8", "2.5"])
def test_options_of_sbatch_keep_their_text(text: str) -> None:
    document = yaml_io.load(f"job_details: {{sbatch: &options {{account: {text}}}, resources: {{qos: {text}}}}}\n"
                            f"parameters: {{LIST: [{{SBATCH: *options}}], SBATCH: [{{a: {text}}}]}}", "x")
    details, parameters = document["job_details"], document["parameters"]
    values = [details["sbatch"]["account"], details["resources"]["qos"], parameters["LIST"][0]["SBATCH"]["account"],
              parameters["SBATCH"][0]["a"], yaml_io.load(f"[{{a: {text}}}]", "x", is_sbatch=True)[0]["a"]]
    assert [f"{value}" for value in values] == [text] * 5


def test_number_that_an_option_of_sbatch_shares_with_a_parameter_stays_a_number() -> None:
    assert yaml_io.load("{SBATCH: {a: &n 1e3}, b: *n}", "x") == {"SBATCH": {"a": "1e3"}, "b": 1000.0}


def test_merge_keys_may_be_overridden_but_keys_may_not_stand_twice() -> None:
    assert yaml_io.load("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n", "x")["b"] == {"x": 3, "y": 2}
    with pytest.raises(JobSpecError, match=r"x\.yaml, line 3, column 3: .*'x' is defined twice \(first on line 2\)"):
        yaml_io.load("a:\n  x: 1\n  x: 2\n", "x.yaml")


@pytest.mark.parametrize("text", ["a: [1\nb: }", "a: *b", "a: !!python/object:os.system x", "a: !unknown x", "\x00",
                                  "a: b: c", "\t- a", "? [a]\n: b\n? {c: d}\n: e", "- a\nb: 1"])
def test_invalid_yaml_is_reported_with_its_position(text: str) -> None:
    with pytest.raises(JobSpecError, match=r"^file\.yaml") as error:
        yaml_io.load(text, "file.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[1, 2]\n", "word\n", "1: a\n"])
def test_a_spec_is_a_mapping_of_names(text: str) -> None:
    with pytest.raises(JobSpecError, match="mapping"):
        yaml_io.load_flat(text, "spec.yaml")


def test_unsupported_values_are_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        yaml_io.dump_flat({"a": {1}})


def test_floats_are_written_for_yaml_1_1_readers_too() -> None:
    assert yaml_io.dump_flat({"a": 1e-5, "b": 1e22, "c": -0.0, "d": 1.5e-7}) == (
        "a: 1.0e-05\nb: 1.0e+22\nc: -0.0\nd: 1.5e-07\n")


def test_cached_lines_keep_their_types_apart() -> None:
    for value in (1, 1.0, True, 0, 0.0, -0.0, False):
        assert same(yaml_io.load_flat(yaml_io.dump_flat({"a": value}))["a"], value)


def test_lists_from_one_line_are_not_shared() -> None:
    first, second = yaml_io.load_flat("a: [1]\n"), yaml_io.load_flat("a: [1]\n")
    first["a"].append(2)
    assert second["a"] == [1]


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    for name, words in (("missing", "No such file"), ("latin", "UTF-8"), (".", "directory")):
        with pytest.raises(JobSpecError, match=words):
            yaml_io.load_file(tmp_path / name)
    (tmp_path / "good").write_text(json.dumps({"a": [1, None]}))
    assert yaml_io.load_file(tmp_path / "good") == {"a": [1, None]}
