"""Names of runs: in order, different, short, and harmless whatever the values are."""
from __future__ import annotations

import datetime
import os
import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.submission.spec.naming import MAX_NAME_BYTES, batch_name, format_value, run_names

SAFE = re.compile(r"[0-9]{3,}_[A-Za-z0-9._,@=+-]*")
NASTY = ["../../etc/passwd", "/", "..", "a b", "$(reboot)", "`id`", "a;b", "a\nb", "\x00", "'", '"', "%j", "*", "~",
         "-rf", "é", "日本", "\ud800", "\u202e", "a|b", "a&b", "a>b", "\\", "{a,b}", "!x", "#", "a" * 5000,
         "é" * 300, ""]
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()), st.sampled_from(NASTY)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)), max_leaves=4)
keys = st.one_of(st.sampled_from(["batch_size", "base_lr", "momentum", "model"]), st.text(min_size=1))


def one_name(**spec: object) -> str:
    return run_names("grid", [spec], list(spec))[0]


def test_batch_name_begins_with_the_date():
    assert batch_name("linear", datetime.date(2031, 4, 5)) == "31-04-05-linear"


def test_name_has_the_index_the_job_spec_and_what_varies():
    specs = [{"model": "linear", "batch_size": 8, "base_lr": 0.015625}, {"model": "linear", "base_lr": 2.0}]
    assert run_names("grid", specs, ["batch_size", "base_lr"]) == [
        "000_grid+bat_siz=8+bas_lr=0.015625", "001_grid+bas_lr=2.0"]
    assert run_names("grid", specs[:1], []) == ["000_grid"]


@pytest.mark.parametrize(("value", "text"), [
    (1e-05, "1e-05"), (1e16, "1e16"), (None, "null"), (True, "true"), (1, "1"), (1.0, "1.0"), ("0.9,0.99", "0.9,0.99"),
    ("libsvm/a9a", "libsvm_a9a"), ([1, None, "x y"], "1,null,x_y"), ("", ""), (float("inf"), "inf"),
    ({"train": "train[:90%]", "val": "train[90%:]"}, "train-train_90_,val-train_90_"),
])
def test_values_in_names(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(("names", "short"), [
    (["learning_rate", "batch_size", "lr"], ["lea_rat", "bat_siz", "lr"]),
    (["momentum", "momentous"], ["momentu", "momento"]),
    (["seed_model", "seed_modality", "seed_training"], ["seed_mode", "seed_moda", "see_tra"]),
    (["abc", "abcd", "abcde"], ["abc", "abcd", "abcde"]),
    (["weight_decay", "weight_decay_biases"], ["wei_dec", "wei_dec_bia"]),
    (["a/b", "a b"], ["a_b", "a_b"]),  # nothing left to tell them apart by
])
def test_keys_are_cut_to_three_letters_or_until_they_differ(names, short):
    name = run_names("g", [dict.fromkeys(names, 1)], names)[0]
    assert name == "+".join(["000_g", *(f"{key}=1" for key in short)])


def test_index_has_enough_digits_to_sort():
    for count, first in ((1000, "000_g"), (1001, "0000_g"), (10001, "00000_g")):
        names = run_names("g", [{}] * count, [])
        assert names[0] == first
        assert names == sorted(names)


def test_long_name_is_cut_and_ends_in_a_hash():
    one, other = one_name(model="x" * 300 + "1"), one_name(model="x" * 300 + "2")
    assert len(one) == len(other) == MAX_NAME_BYTES
    assert one[:-8] == other[:-8]
    assert one != other
    assert one == one_name(model="x" * 300 + "1")
    assert len(one_name(model="x" * (MAX_NAME_BYTES - len("000_grid+mod=")))) == MAX_NAME_BYTES


@given(st.lists(st.dictionaries(keys, values, max_size=4), min_size=1, max_size=6))
def test_names_are_safe_unique_and_sorted(specs):
    varying = sorted({key for spec in specs for key in spec})
    names = run_names("grid", specs, varying)
    assert len(set(names)) == len(specs)
    assert names == sorted(names)
    for name in names:
        assert SAFE.fullmatch(name)
        assert len(name.encode()) <= MAX_NAME_BYTES
        assert os.path.normpath(os.path.join("batch", name)) == f"batch/{name}"


def test_special_characters_make_valid_folders_and_shell_words(tmp_path):
    names = run_names("grid", [{"model": value, "list": [value]} for value in NASTY], ["model", "list"])
    for name in names:
        (tmp_path / name).mkdir()
    assert sorted(os.listdir(tmp_path)) == names
    said = subprocess.run(["sh", "-c", "printf '%s\n' " + " ".join(names)], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == names
