"""The names of a batch's runs, taken apart: what all have in common once, and what varies for each run."""
from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from src import run_folder
from src.errors import UserError
from src.frozen import Frozen
from src.submission.spec import naming
from src.submission.status.observation import Observation
from src.terminal.cells import clean

# of `012_lenet+bas_lr=0.1+seed=3`, as src/submission/spec/naming.py makes them
_NAME = re.compile(r"([0-9]+)_([^+=]*)((?:\+[^+=]+=[^+=]*)*)")


class RunName(NamedTuple):
    """A name in parts. label: its index, or all of a name that was made otherwise; values: by the short parameter."""

    label: str
    stem: str = ""
    values: Mapping[str, str] = {}


class RunNames(Frozen):
    """The names of some runs of a batch.

    names: by run;
    stem: the name of the job spec in them; empty if they differ in it;
    common: the values, by short parameter, that all runs share;
    varying: the full name of each short parameter that varies, in order.
    """

    names: dict[str, RunName]
    stem: str
    common: dict[str, str]
    varying: dict[str, str]

    def title(self, path: str) -> str:
        """Return `results/x/*_lenet+*` for the runs of a batch, with the values that all of them share."""
        common = "".join(f"+{short}={value}" for short, value in self.common.items())
        return clean(f"{path}/*_{self.stem}{common}{'+*' if self.varying else ''}" if self.stem else path)

    def values(self, run: str) -> list[str]:
        """Return the value of each varying parameter of a run; empty where it has none."""
        return [self.names[run].values.get(short, "") for short in self.varying]


def parse(name: str) -> RunName:
    """Take the name of a run apart."""
    base, repeat, number = name.rpartition("-repeat-") if run_folder.is_repeat(name) else (name, "", "")
    match = _NAME.fullmatch(base)
    if match is None:
        return RunName(clean(name))
    values = dict(part.split("=") for part in match[3].split("+")[1:])
    return RunName(f"{match[1]} repeat {number}" if repeat else match[1], match[2],
                   {clean(short): clean(value) for short, value in values.items()})


def read(observation: Observation) -> RunNames:
    """Take the names of a batch's runs apart. Reads one spec for each varying parameter, for its full name."""
    names = {name: parse(name) for name in observation.runs}
    stems = {name.stem for name in names.values()}
    shorts = dict.fromkeys(short for name in names.values() for short in name.values)
    numbers = Counter(item for name in names.values() for item in name.values.items())
    common = {short: value for (short, value), number in numbers.items() if number == len(names) > 1}
    varying = [short for short in shorts if short not in common]
    return RunNames(names, clean(next(iter(stems))) if len(stems) == 1 else "", common,
                    _full_names(observation, names, varying))


def _full_names(observation: Observation, names: Mapping[str, RunName], shorts: Iterable[str]) -> dict[str, str]:
    full_names: dict[str, str] = {}
    specs: dict[str, dict[str, object]] = {}
    for short in shorts:
        run = next(run for run, name in names.items() if short in name.values)
        if run not in specs:
            try:
                specs[run] = run_folder.read_spec(os.path.join(observation.runs[run].path, run_folder.SPEC))
            except (UserError, OSError):
                specs[run] = {}
        keys = [key for key, value in specs[run].items()
                if _abbreviates(short, key) and naming.format_value(value) == names[run].values[short]]
        full_names[short] = clean(keys[0]) if len(keys) == 1 else short
    return full_names


def _abbreviates(short: str, key: str) -> bool:
    """Whether a part of a run's name, as bas_lr, may stand for a key: each of its words begins one of the key."""
    words, key_words = short.split("_"), key.split("_")
    return len(words) == len(key_words) and all(
        key_word.startswith(word) for word, key_word in zip(words, key_words, strict=True))
