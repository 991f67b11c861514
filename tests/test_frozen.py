"""Frozen behaves like a frozen dataclass, field by field."""
from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.frozen import Frozen, field


class Job(Frozen):
    name: str
    size: int = 1
    tags: list[str] = field(default_factory=list)

    @cached_property
    def label(self) -> str:
        return f"{self.name}:{self.size}"


@dataclass(frozen=True)
class Model:
    """The reference."""

    name: str
    size: int = 1
    tags: list[str] = dataclass_field(default_factory=list)


VALUES = st.text(max_size=3) | st.integers() | st.lists(st.text(max_size=2), max_size=2)


@given(st.lists(VALUES, max_size=4), st.dictionaries(st.sampled_from(["name", "size", "tags", "other"]), VALUES))
def test_constructor_accepts_what_a_dataclass_accepts(values: list[Any], named: dict[str, Any]) -> None:
    try:
        expected = Model(*values, **named)
    except TypeError:
        with pytest.raises(TypeError, match="Job"):
            Job(*values, **named)
        return
    job = Job(*values, **named)
    assert job._asdict() == vars(expected)
    assert repr(job) == repr(expected).replace("Model", "Job")
    assert job == Job(**vars(expected))


def test_defaults_are_made_for_each_object() -> None:
    first, second = Job("a"), Job("a")
    first.tags.append("x")
    assert second.tags == [] and first != second
    assert Job.size == 1 and not hasattr(Job, "tags")


def test_fields_cannot_be_set_and_replace_returns_a_changed_copy() -> None:
    job = Job("a", 2)
    with pytest.raises(AttributeError, match=r"Job\.size"):
        job.size = 3  # type: ignore[misc]
    assert job._replace(size=3) == Job("a", 3) and job.size == 2
    with pytest.raises(TypeError, match="Job has the fields name, size, tags"):
        job._replace(length=3)


def test_cached_properties_are_no_fields() -> None:
    job = Job("a")
    assert job.label == "a:1"
    assert job == Job("a") and job._replace(size=2).label == "a:2" and "label" not in job._asdict()


def test_subclasses_inherit_fields() -> None:
    class Task(Job):
        index: int = 0

    class Alias(Job):
        known: ClassVar[list[str]] = []

    assert Task("a", index=3)._asdict() == {"name": "a", "size": 1, "tags": [], "index": 3}
    assert Alias("a")._asdict() == Job("a")._asdict() and Alias("a") != Task("a")


def test_copies_are_equal() -> None:
    job = Job("a", 2, ["x"])
    assert copy.deepcopy(job) == pickle.loads(pickle.dumps(job)) == job
    assert Job("a") != Model("a") and Job("a") != ("a", 1, [])
