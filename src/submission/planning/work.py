"""The planned submission, as a type: which runs of which batch, how they start, and what to print."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from src.submission.batch.journal import History
from src.submission.planning.plan import Plan
from src.submission.status.observation import Run

if TYPE_CHECKING:
    from src.submission.batch.provenance import Code
    from src.submission.planning.canary import Canaries
    from src.submission.spec.container_spec import Container
    from src.submission.spec.notify_spec import Notify


@dataclass
class Work:
    """A batch and what is to be done with it. new: it is not on disk yet; avoid: nodes to leave out, and why; canaries:
    those that there are; first: those that the runs wait for; project: the folder of train.py; snapshot: the copy of
    it that runs start from, if they do; code: what git says of it, unless nobody asked; notify: where
    messages go, if any; container: what the runs start in, if not in the node itself; extension: what makes the batch a
    larger one.
    """

    project: str
    path: str
    names: list[str]
    specs: list[dict[str, Any]]
    plan: Plan
    job_text: str = ""
    new: bool = False
    overwrites: str | None = None
    lines: list[str] = field(default_factory=list)
    history: History = field(default_factory=History)
    identity: dict[str, Any] = field(default_factory=dict)
    avoid: dict[str, str] = field(default_factory=dict)
    canaries: dict[str, Run] = field(default_factory=dict)
    first: Canaries | None = None
    snapshot: str | None = None
    code: Code | None = None
    notify: Notify | None = None
    container: Container | None = None
    extension: Extension | None = None

    @property
    def start_in(self) -> str:
        """The folder of the train.py that runs start."""
        return self.snapshot or self.project


@dataclass(frozen=True)
class Extension:
    """What an extended batch is made from, beside its job spec. number: of the extension; names: of the run of each
    grid point, in the order of the grid; identity: the overrides; new: the names of the runs that it makes.
    """

    number: int
    names: list[str]
    identity: dict[str, Any]
    new: frozenset[str] = frozenset()
