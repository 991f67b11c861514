"""Grids: the order of the file, hiding, ZIP, EXCLUDE, equal points; and a naive expander that must agree."""
from __future__ import annotations

import itertools
import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import ConfigError, JobSpecError
from src.io import yaml_io
from src.submission.spec.grammar import comparison_key
from src.submission.spec.grid import Grid, expand_parameters, spec_texts
from src.submission.spec.reader import read_job_spec

GOLDEN = pathlib.Path(__file__).parents[3] / "tests" / "golden"

# What a parameter that is one string stands for, worked by hand.
STRINGS = {
    "[float(x)/10 for x in 2.0 ** np.arange(-2, 1)]": [0.025, 0.05, 0.1],
    "range(2)": [0, 1],
    "list(range(1, 3))": [1, 2],
    "2.0 ** np.arange(0, 2)": [1.0, 2.0],
    "[1, 'range(2)']": [1, "range(2)"],
    'dict(train="train", test="test")': {"train": "train", "test": "test"},
    'dict(train="train[:90%]", val="train[90%:]")': {"train": "train[:90%]", "val": "train[90%:]"},
}


def naive(mapping: dict) -> list[dict]:
    """The grid points of the older format, in order, with repetitions: written for plainness alone."""
    choices = []
    for key, raw in mapping.items():
        if key.startswith("LIST"):
            choices.append([(True, point) for item in raw for point in naive(item)])
            continue
        values = STRINGS.get(raw, raw) if isinstance(raw, str) else raw
        if not isinstance(values, list):
            values = [values]
        elif values is raw:
            values = [STRINGS[v] if isinstance(v, str) and v.startswith("dict(") else v for v in values]
        choices.append([(False, {key: value}) for value in values])
    points = []
    for combination in itertools.product(*choices):
        point = {}
        for inner in (False, True):  # what a LIST gives comes after, and hides
            for is_list, part in combination:
                if is_list is inner:
                    point.update(part)
        points.append(point)
    return points


def text_of(point: dict) -> str:
    """Tells 1, 1.0 and true apart; keys in any order."""
    return json.dumps(point, sort_keys=True)


def distinct(points: list[dict]) -> list[str]:
    return list(dict.fromkeys(map(text_of, points)))


def yaml(text: str) -> dict:
    return yaml_io.load(text, "test")


def points(text: str, **options: object) -> list[dict]:
    return expand_parameters(yaml(text), "test", **options).specs


scalars = st.sampled_from([1, 1.0, True, 0, False, None, "1", "a/b", "{x,y}", "k=v", "", "0,1", 0.5, -3])
values = st.one_of(scalars, st.sampled_from(sorted(STRINGS)), st.just({"train": "train"}))
axis_values = st.lists(st.one_of(scalars, st.just({"train": "train"}), st.just([1, 2]), st.just("np.arange(3)"),
                                 st.sampled_from([text for text in STRINGS if text.startswith("dict(")])),
                       min_size=1, max_size=3)
keys = st.sampled_from("abcd")
plain = st.dictionaries(keys, st.one_of(values, axis_values), max_size=3)


def with_lists(items: st.SearchStrategy[dict]) -> st.SearchStrategy[dict]:
    lists = st.dictionaries(st.sampled_from(["LIST", "LIST2", "LIST_x"]), st.lists(items, min_size=1, max_size=3),
                            max_size=2)
    return st.tuples(plain, lists, st.randoms(use_true_random=False)).map(shuffled)


def shuffled(parts: tuple) -> dict:
    entries = [*parts[0].items(), *parts[1].items()]
    parts[2].shuffle(entries)
    return dict(entries)


@given(st.recursive(plain, with_lists, max_leaves=5))
def test_grid_equals_that_of_a_naive_expander(parameters):
    expected = naive(parameters)
    grid = expand_parameters(parameters, "test")
    assert [text_of(spec) for spec in grid.specs] == distinct(expected)
    assert bool(grid.notes) == (len(grid.specs) < len(expected))
    differing = {key for key in {key for point in expected for key in point}
                 if len({text_of({key: point[key]}) if key in point else None for point in expected}) > 1}
    assert set(grid.varying) == differing


@given(st.recursive(plain, with_lists, max_leaves=5))
def test_changing_a_spec_leaves_the_parameters_unchanged(parameters):
    before = repr(parameters)
    for spec in expand_parameters(parameters, "test").specs:
        spec["new"] = 1
    assert repr(parameters) == before


@given(st.recursive(plain, with_lists, max_leaves=5))
def test_spec_texts_equal_those_of_yaml_io(parameters):
    specs = expand_parameters(parameters, "test").specs
    texts = list(spec_texts(specs))
    assert texts == [yaml_io.dump_flat(spec) for spec in specs]
    assert [text_of(yaml_io.load_flat(text)) for text in texts] == [text_of(spec) for spec in specs]


def test_older_job_spec_expands_to_the_same_points():
    job_spec = read_job_spec(str(GOLDEN / "older-group.yaml"))
    grid = expand_parameters(job_spec.parameters, "test")
    expected = (GOLDEN / "older-group.points.jsonl").read_text(encoding="utf-8").splitlines()
    assert [text_of(spec) for spec in grid.specs] == expected
    assert any("both define 'lr'" in warning for warning in grid.warnings)
    assert job_spec.extra == {"project": "optimisation", "contact": "someone@example.org"}


def test_product_has_the_order_of_the_file():
    grid = expand_parameters(yaml("{c: x, b: [1, 2], LIST: [{a: [3, 4]}, {a: 5}], d: [true, null], e: {f: g}}"), "test")
    assert [tuple(spec.values()) for spec in grid.specs] == [
        ("x", b, a, d, {"f": "g"}) for b in (1, 2) for a in (3, 4, 5) for d in (True, None)]
    assert list(grid.specs[0]) == list("cbade")
    assert grid.axes == [("b", 2), ("LIST", 3), ("d", 2)]
    assert grid.varying == ["b", "a", "d"]
    assert not grid.notes
    assert not grid.warnings


def test_single_values():
    assert points("a: 1") == [{"a": 1}]
    assert points("a: [null]") == [{"a": None}]
    assert points("a: null") == [{"a": None}]
    assert points("a: [[]]") == [{"a": []}]
    assert points("a: [[1, 2]]") == [{"a": [1, 2]}]
    assert points("a: {b: [1, 2]}") == [{"a": {"b": [1, 2]}}]
    assert points("a: max(range(4))") == [{"a": 3}]
    assert points("a: ['range(4)', '[1']") == [{"a": "range(4)"}, {"a": "[1"}]
    assert points("{}") == [{}]


def test_list_item_overrides_the_outer_key_only_in_itself():
    expected = [{"m": 0.5, "lr": 1}, {"m": 0.9, "lr": 2}, {"m": 0.0, "lr": 2}]
    assert points("{m: 0.5, LIST: [{lr: 1}, {lr: 2, m: [0.9, 0.0]}]}") == expected
    assert points("{LIST: [{lr: 1}, {lr: 2, m: [0.9, 0.0]}], m: 0.5}") == expected


def test_inner_list_overrides_its_item_and_the_outer_keys():
    assert points("{a: 1, LIST: [{b: 2, LIST: [{a: 3}, {b: 4}]}, {a: 5}]}") == [
        {"a": 3, "b": 2}, {"a": 1, "b": 4}, {"a": 5}]


def test_overridden_axis_gives_each_point_once():
    grid = expand_parameters(yaml("{lr: [1, 2], LIST: [{lr: 3}, {m: 0.9}]}"), "test")
    assert grid.specs == [{"lr": 3}, {"lr": 1, "m": 0.9}, {"lr": 2, "m": 0.9}]
    assert grid.notes == ["4 grid points are 3 different ones: equal points were merged"]


def test_later_list_overrides_the_earlier_with_a_warning():
    grid = expand_parameters(yaml("{LIST_a: [{x: 1, y: 1}], LIST_b: [{x: 2}, {z: 3}]}"), "test")
    assert grid.specs == [{"x": 2, "y": 1}, {"x": 1, "y": 1, "z": 3}]
    assert grid.warnings == ["test: LIST_a and LIST_b both define 'x'; the later, LIST_b, overrides the other"]


def test_integer_float_and_boolean_are_different_values():
    grid = expand_parameters(yaml("a: [1, 1.0, true, 1, [1], [1.0], {k: 1}, {k: true}, 'true', '1']"), "test")
    assert len(grid.specs) == 9
    assert grid.axes == [("a", 9)]


@given(st.recursive(scalars, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=6),
       st.recursive(scalars, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=6))
def test_comparison_keys_are_equal_if_the_values_are(one, other):
    assert (comparison_key(one) == comparison_key(other)) == (text_of({"": one}) == text_of({"": other}))


def test_zip_advances_its_axes_together():
    grid = expand_parameters(yaml("{ZIP: {a: [1, 2, 3], b: 'range(3)', c: x}, d: [7, 8]}"), "test")
    assert [tuple(spec[key] for key in "abcd") for spec in grid.specs] == [
        (a, a - 1, "x", d) for a in (1, 2, 3) for d in (7, 8)]
    assert grid.axes == [("ZIP", 3), ("d", 2)]


def test_zip_contains_a_list_and_is_in_a_list():
    assert points("{ZIP: {a: [1, 2, 3], LIST: [{b: [4, 5]}, {c: 6}]}}") == [
        {"a": 1, "b": 4}, {"a": 2, "b": 5}, {"a": 3, "c": 6}]
    assert points("{a: 0, LIST: [{ZIP_1: {a: [1, 2], b: [3, 4]}}, {b: 5}]}") == [
        {"a": 1, "b": 3}, {"a": 2, "b": 4}, {"a": 0, "b": 5}]
    assert points("{ZIP_a: {a: [1, 2], b: [3, 4]}, ZIP_c: {c: [5, 6]}}") == [
        {"a": a, "b": a + 2, "c": c} for a in (1, 2) for c in (5, 6)]


def test_exclude_removes_points_by_value():
    parameters = yaml("{a: [1, 2.0, 3], b: [x, null], EXCLUDE: [{a: [1.0, 2], b: x}, {a: 3, b: null}]}")
    grid = expand_parameters(parameters, "test")
    assert grid.specs == [{"a": 1, "b": None}, {"a": 2.0, "b": None}, {"a": 3, "b": "x"}]
    assert grid.notes == ["test, EXCLUDE removes 3 of 6 grid points"]


@given(st.lists(st.dictionaries(st.sampled_from("ab"), st.sampled_from([0, 1, True, 1.0, None, [0, None]]), min_size=1),
                max_size=3))
def test_exclude_is_a_filter(entries):
    parameters = {"a": [0, 1.0, True, None], "b": [1, None]}

    def is_like(value: object, wanted: object) -> bool:
        options = wanted if isinstance(wanted, list) else [wanted]
        return any(value == option and isinstance(value, bool) is isinstance(option, bool) for option in options)

    def is_excluded(point: dict, entry: dict) -> bool:
        return all(is_like(point[key], wanted) for key, wanted in entry.items())

    every = naive(parameters)
    left = [point for point in every if not any(is_excluded(point, entry) for entry in entries)]
    if left and all(any(is_excluded(point, entry) for point in every) for entry in entries):
        assert expand_parameters({**parameters, "EXCLUDE": entries}, "test").specs == left
    else:
        with pytest.raises(JobSpecError, match="matches nothing|removes every"):
            expand_parameters({**parameters, "EXCLUDE": entries}, "test")


def test_exclude_compares_values_expressions_and_absent_keys():
    assert points("{a: [1, true, '1'], EXCLUDE: [{a: 1.0}]}") == [{"a": True}, {"a": "1"}]
    assert points("{a: [0, 1, 2, 3], EXCLUDE: [{a: 'range(1, 4)'}]}") == [{"a": 0}]
    assert points("{LIST: [{a: 1}, {b: 1}], c: [1, 2], EXCLUDE: [{a: 1, c: 2}]}") == [
        {"a": 1, "c": 1}, {"b": 1, "c": 1}, {"b": 1, "c": 2}]
    assert points("{a: [{k: 1}, {k: 2}], EXCLUDE: [{a: {k: 1.0}}]}") == [{"a": {"k": 2}}]
    assert points("{a: [[1, 2], [3]], EXCLUDE: [{a: [[1, 2]]}]}") == [{"a": [3]}]


def test_exclude_entries_may_overlap():
    assert points("{a: [1, 2], b: [1, 2], EXCLUDE: [{a: 1}, {a: 1, b: 1}]}") == [{"a": 2, "b": 1}, {"a": 2, "b": 2}]


def test_exclude_inside_a_list_item_sees_only_the_item():
    assert points("{c: 9, LIST: [{a: [1, 2], EXCLUDE: [{a: 2}]}, {a: 2}]}") == [{"c": 9, "a": 1}, {"c": 9, "a": 2}]


@pytest.mark.parametrize(("text", "words"), [
    ("{a: [1, 2], EXCLUDE: [{a: 3}]}", ["matches nothing", "never 3", "1, 2"]),
    ("{base_lr: [1, 2], EXCLUDE: [{bas_lr: 1}]}", ["matches nothing", "'base_lr'"]),
    ("{a: [1, 2], b: 1, EXCLUDE: [{a: 1}, {a: 1, b: 2}]}", ["entry 2", "matches nothing"]),
    ("{a: [1, 2], EXCLUDE: {a: 1}}", ["must be a list of partial specs"]),
    ("{a: [1, 2], EXCLUDE: [{}]}", ["must be a list of partial specs"]),
    ("{a: [1, 2], EXCLUDE: null}", ["must be a list of partial specs"]),
    ("{a: [1, 2], EXCLUDE: [{TAGS: x}]}", ["'TAGS' is not a parameter"]),
    ("{a: [1, 2], EXCLUDE: [{a: [1, 2]}]}", ["removes every grid point"]),
    ("{a: 1, LIST: [{b: 1, EXCLUDE: [{a: 1}]}]}", ["no grid point has 'a'", "LIST, item 1"]),
    ("a: []", ["without values", "test, a", "[null]"]),
    ("a: 'range(0)'", ["without values"]),
    ("LIST: []", ["without values"]),
    ("LIST: null", ["must be a list of sub-grids"]),
    ("LIST: {a: 1}", ["must be a list of sub-grids", "dash"]),
    ("LIST: [{a: 1}, 3]", ["must be a list of sub-grids"]),
    ("ZIP: {a: [1, 2], b: [1, 2, 3]}", ["a has 2", "b has 3", "equal length"]),
    ("ZIP: {a: [1, 2], b: [1]}", ["equal length"]),
    ("ZIP: [{a: 1}]", ["ZIP must be a mapping"]),
    ("ZIP: {}", ["ZIP must be a mapping"]),
    ("{a: 1, ZIP: {a: [1, 2]}}", ["'a' is defined twice"]),
    ("{ZIP_1: {a: [1]}, ZIP_2: {a: [1, 2]}}", ["defined twice", "ZIP_1", "ZIP_2"]),
    ("EXCLUDES: [{a: 1}]", ["unknown reserved word", "did you mean EXCLUDE?"]),
    ("SBACTH: {mem: 1G}", ["did you mean SBATCH?"]),
    ("3: 4", ["invalid key 3"]),
    ("null: 4", ["invalid key None"]),
    ("SBATCH: [{mem: 1G}]", ["SBATCH: invalid sbatch options", "a mapping"]),
    ("SBATCH: {mem: [1G, 2G]}", ["SBATCH: invalid sbatch options", "a mapping"]),
    ("SCRIPT: [a.sh, b.sh]", ["invalid SCRIPT"]),
    ("TAGS: [1]", ["invalid TAGS [1]", "a list of strings"]),
    ("a: '[1'", ["test, a", "never closed"]),
    ("LIST: [{a: 'np.load(1)'}]", ["test, LIST, item 1, a", "not allowed"]),
    ("a: ['dict(x)']", ["test, a", "not a mapping"]),
    ("{a: 'range(1000)', b: 'range(1000)', c: [1, 2]}", ["more than 1,000,000", "1000 a x 1000 b x 2 c"]),
    ("LIST: [{a: 'range(1000)', b: 'range(1000)', c: [1, 2]}]", ["more than 1,000,000"]),
    ("LIST: &x [{LIST: *x}]", ["an alias inside its own anchor"]),
    ("a: &x [*x]", ["an alias inside its own anchor"]),
    ("a: !!binary aGk=", ["type bytes"]),
])
def test_invalid_input_is_refused(text, words):
    with pytest.raises(JobSpecError) as refused:
        expand_parameters(yaml(text), "test")
    for word in ("test", *words):
        assert word in str(refused.value)


def test_other_words_in_capitals_are_parameters():
    assert points("{C: [0.1, 1], GAMMA: 2}") == [{"C": 0.1, "GAMMA": 2}, {"C": 1, "GAMMA": 2}]


def test_per_point_keys_are_in_specs_but_never_vary():
    grid = expand_parameters(yaml("{a: [1, 2], SBATCH: {mem: 8G}, SCRIPT: x.sh, TAGS: [p, q], SUBTESTS: [s, t], LIST: ["
                       "{b: 1}, {b: 2, SBATCH: {mem: 16G, gpus: 2}, TAGS: r}]}"), "test")
    assert len(grid.specs) == 4
    assert grid.varying == ["a", "b"]
    assert [(spec["SBATCH"], spec["TAGS"]) for spec in grid.specs[:2]] == [
        ({"mem": "8G"}, ["p", "q"]), ({"mem": "16G", "gpus": 2}, ["r"])]
    assert grid.specs[0]["SUBTESTS"] == ["s", "t"]
    assert grid.specs[0]["SCRIPT"] == "x.sh"


def test_equal_points_have_the_tags_of_all():
    parameters = yaml("LIST: [{a: 1, TAGS: [p, q]}, {a: 2}, {a: 1, TAGS: [r, q]}, {a: 1, SUBTESTS: s}, {a: [1, 2]}]")
    grid = expand_parameters(parameters, "test")
    assert grid.specs == [{"a": 1, "TAGS": ["p", "q", "r"], "SUBTESTS": ["s"]}, {"a": 2}]
    assert parameters["LIST"][0]["TAGS"] == ["p", "q"]


@pytest.mark.parametrize("text", [
    "LIST: [{a: 1, SBATCH: {mem: 1G}}, {a: 1, SBATCH: {mem: 2G}}]", "LIST: [{a: 1, SCRIPT: x}, {a: 1}]"])
def test_equal_points_with_different_options_are_refused(text):
    with pytest.raises(JobSpecError, match="equal grid points differ in S"):
        expand_parameters(yaml(text), "test")


def test_equal_points_with_equal_options_are_merged():
    assert len(points("LIST: [{a: 1, SBATCH: {x: 1, y: 2}}, {a: 1, SBATCH: {y: 2, x: 1}}]")) == 1


@pytest.mark.parametrize(("text", "overrides", "expected"), [
    ("{a: [1, 2], b: 3}", {"a": 5}, [{"a": 5, "b": 3}]),
    ("{a: [1, 2], b: 3}", {"b": [6, 7]}, [{"a": a, "b": b} for a in (1, 2) for b in (6, 7)]),
    ("a: 1", {"b": "range(2)"}, [{"a": 1, "b": 0}, {"a": 1, "b": 1}]),
    ("{a: 1, LIST: [{a: 2, b: 3}, {b: 4}]}", {"a": 5}, [{"a": 5, "b": 3}, {"a": 5, "b": 4}]),
    ("LIST: [{a: [2, 3], b: 3}, {b: 4}]", {"a": [5, 6]}, [{"b": b, "a": a} for b in (3, 4) for a in (5, 6)]),
    ("LIST: [{LIST: [{a: 2}, {b: 1}]}]", {"a": 5}, [{"a": 5}, {"b": 1, "a": 5}]),
    ("ZIP: {a: [1, 2], b: [3, 4]}", {"a": 5}, [{"a": 5, "b": 3}, {"a": 5, "b": 4}]),
    ("ZIP: {a: [1, 2], b: [3, 4]}", {"a": [5, 6]}, [{"a": 5, "b": 3}, {"a": 6, "b": 4}]),
    ("LIST: [{ZIP: {a: [1, 2], b: [3, 4]}}, {ZIP: {a: [1]}}]", {"a": 5},
     [{"b": 3, "a": 5}, {"b": 4, "a": 5}, {"a": 5}]),
    ("{a: 1, LIST: [{SBATCH: {mem: 1G}}]}", {"SBATCH": {"mem": "2G"}}, [{"a": 1, "SBATCH": {"mem": "2G"}}]),
    ("{a: 1, b: 2}", {"a": None}, [{"a": None, "b": 2}]),
])
def test_override_replaces_a_key_everywhere(text, overrides, expected):
    assert points(text, overrides=overrides) == expected


def test_override_that_leaves_an_exclude_without_match_warns():
    grid = expand_parameters(yaml("{a: [1, 2], EXCLUDE: [{a: 1}]}"), "test", {"a": 3})
    assert grid.specs == [{"a": 3}]
    assert grid.warnings == ["test, EXCLUDE, entry 1: matches nothing, because a is overridden"]


def test_values_of_independent_parameters_are_checked_once():
    """A sweep of rates and seeds takes as many checks as it has values, not as many as points; a bad one is found."""
    def check(spec: dict, where: str) -> None:
        checked.append(spec)
        if spec["weight_decay"] == 7:
            raise ConfigError("seven", where=where)

    text = "{base_lr: [1, 2, 3], batch_size: [4, 8], momentum: [0, 1], seed_model: range(50), weight_decay: [0, %s]}"
    checked: list[dict] = []
    grid = expand_parameters(yaml(text % 1), "here", check=check)
    assert len(grid.specs) == 3 * 2 * 2 * 50 * 2 and len(checked) <= 3 + 2 * 2 + 50 + 2
    for names in (("batch_size", "momentum"), ("base_lr",), ("seed_model",), ("weight_decay",)):
        assert {tuple(spec[name] for name in names) for spec in checked} == {
            tuple(spec[name] for name in names) for spec in grid.specs}
    with pytest.raises(ConfigError, match="seven"):
        expand_parameters(yaml(text % 7), "here", check=check)


def test_each_distinct_point_is_checked_once():
    seen = []

    def check(spec: dict, where: str) -> None:
        seen.append((dict(spec), where))
        if spec["a"] == 3:
            raise ConfigError("three", where=where)

    expand_parameters(yaml("a: [1, 2, 1]"), "here", check=check)
    assert seen == [({"a": 1}, "here"), ({"a": 2}, "here")]
    with pytest.raises(ConfigError, match="three"):
        expand_parameters(yaml("a: [1, 3]"), "here", check=check)


def test_grid_of_one_point():
    grid = expand_parameters(yaml("a: 1"), "test")
    assert grid == Grid([{"a": 1}], [], [], [], [])


if __name__ == "__main__":
    older = naive(yaml_io.load_file(GOLDEN / "older-group.yaml")["parameters"])
    (GOLDEN / "older-group.points.jsonl").write_text("".join(f"{line}\n" for line in distinct(older)), encoding="utf-8")
