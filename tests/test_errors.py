"""Errors for users: one line, with what, where, what is allowed and what to type next."""
from __future__ import annotations

import pytest

from src.errors import UserError, did_you_mean, exits_on_user_error, listed, nearest, one_line, shell_command


def test_all_parts_stand_in_one_sentence() -> None:
    error = UserError("wrong", where="x.yaml", allowed=["a", 1], hint="type b").at("jobs")
    assert str(error) == "jobs, x.yaml: wrong; allowed: a, 1; type b"
    assert str(UserError("why?", hint="so")) == "why? so"
    assert str(UserError("alone")) == "alone"


def test_nearest() -> None:
    assert nearest("batchsize", ["batch_size", "base_lr"]) == "batch_size"
    assert nearest("zzz", ["batch_size"]) is None
    assert did_you_mean("zzz", ["batch_size"]) is None
    assert nearest("SGD", ["adam", "sgd"]) == "sgd", "case is ignored"


def test_suggestions_can_be_copied_and_never_repeat_the_name() -> None:
    assert did_you_mean("digit", ["digits"], prefix="sklearn/") == "did you mean 'sklearn/digits'?"
    assert did_you_mean("cosin", ["cosine"], suffix="_3") == "did you mean 'cosine_3'?"
    assert did_you_mean("cosine", ["cosine"], suffix="_x") is None


def test_an_entry_point_exits_with_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @exits_on_user_error
    def main(kind: str) -> int | None:
        if kind == "user":
            raise UserError("a\nb\x1b[2J")
        if kind == "bug":
            raise ZeroDivisionError
        return None if kind == "good" else 7

    assert [main("good"), main("seven"), main("user")] == [0, 7, 2]
    assert capsys.readouterr().err == "error: a\\nb\\x1b[2J\n"
    with pytest.raises(ZeroDivisionError):
        main("bug")


def test_one_line_and_commands() -> None:
    assert one_line("é\t'x'") == "é\\t'x'"
    assert shell_command("python", "a b", "$(c)") == "python 'a b' '$(c)'"


def test_listed_counts_what_it_does_not_name() -> None:
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c"], 1, " and ") == "a and 2 more"
