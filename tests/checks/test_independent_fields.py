"""No rule on combinations reads INDEPENDENT_FIELDS, so that a grid needs no check for each of their combinations."""
from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from src.config import DEFAULTS, FIELDS, INDEPENDENT_FIELDS
from src.errors import UserError
from src.submission.planning.planner import check_point
from tests.random_configs import specs

# valid ones, which a spec may have without another one
VALUES = {"base_lr": 0.5, "weight_decay": 0.1, "weight_decay_biases": 0.1, "ada_eps": 1e-6, "seed_model": 3,
          "seed_training": 3, "seed_split": 3, "cooldown_steps": 2}


def error(spec: dict[str, Any]) -> str | None:
    """Return the message for a spec; None if it is valid."""
    try:
        check_point(None, spec, "spec")
    except UserError as problem:
        return str(problem)
    return None


def test_every_independent_field_is_drawn_below() -> None:
    assert VALUES.keys() == INDEPENDENT_FIELDS <= FIELDS.keys()
    assert all(DEFAULTS[name] != value and error({name: value}) is None for name, value in VALUES.items())


@settings(max_examples=300)
@given(specs(), st.sampled_from(sorted(INDEPENDENT_FIELDS)))
def test_outcome_does_not_depend_on_an_independent_field(spec: dict[str, Any], name: str) -> None:
    without = {key: value for key, value in spec.items() if key not in INDEPENDENT_FIELDS}
    assert error(without) == error({**without, name: VALUES[name]}) == error({**without, **VALUES})
