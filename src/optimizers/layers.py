"""The layers of a model from the first to the head: each learns slower than the next, or all but the head is frozen."""
from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.errors import ConfigError


def layer_scales(model: nn.Module, decay: float, head: nn.Module | None) -> dict[nn.Parameter, float]:
    """decay ** (layers between a parameter's layer and the last one), the head's (Clark et al., ELECTRA, 2020; Bao et
    al., BEiT, 2022). Layers are what timm's model says they are, else the parts of which the model is made.

    ConfigError if there is but one.
    """
    numbers = _numbers_of_timm(model) or {
        parameter: number for number, part in enumerate(_parts(model)) for parameter in part.parameters()}
    last = max(numbers.values(), default=0)
    ends = set(head.parameters()) if head else set()
    if last == 0:
        raise ConfigError("the model has but one layer", where="layer_decay", allowed="null")
    return {parameter: decay ** (0 if parameter in ends else last - numbers.get(parameter, last))
            for parameter in model.parameters()}


def _numbers_of_timm(model: nn.Module) -> dict[nn.Parameter, int]:
    """The number of each parameter's layer in a model of timm; empty for other models."""
    if not hasattr(model, "group_matcher"):
        return {}
    from timm.models import group_parameters

    numbers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    return {parameter: numbers[name] for name, parameter in model.named_parameters() if name in numbers}


def _parts(model: nn.Module) -> list[nn.Module]:
    """The children that have parameters, in order; of a model that is one part, its parts; of sequences, theirs."""
    parts = _with_parameters(model)
    if len(parts) == 1 and next(model.parameters(recurse=False), None) is None:
        return _parts(parts[0]) or parts
    return [part for child in parts for part in _members(child)]


def _members(part: nn.Module) -> list[nn.Module]:
    """The members of a sequence, and theirs if they are sequences; any other part is itself one."""
    if not isinstance(part, nn.Sequential | nn.ModuleList):
        return [part]
    return [member for child in _with_parameters(part) for member in _members(child)]


def _with_parameters(model: nn.Module) -> list[nn.Module]:
    return [child for child in model.children() if next(child.parameters(), None) is not None]


class Freeze:
    """A backbone that does not learn, until an epoch from which all does. head: what learns from the start.

    The statistics of its batch norms stay as they are while it is frozen.
    """

    def __init__(self, model: nn.Module, head: nn.Module, until: int | None) -> None:
        self._model, self._head, self._until = model, head, until
        self._frozen = False

    def at(self, epoch: int) -> None:
        """Freeze or free the backbone, as is right for an epoch."""
        frozen = self._until is None or epoch < self._until
        if frozen != self._frozen:
            for parameter in self._backbone():
                parameter.requires_grad_(not frozen)
            self._frozen = frozen

    def keep_still(self) -> None:
        """After the model was put into training mode: its frozen batch norms go on as in evaluation."""
        if self._frozen:
            inside = set(self._head.modules())
            for module in self._model.modules():
                if isinstance(module, _BatchNorm) and module not in inside:
                    module.eval()

    def _backbone(self) -> Iterator[nn.Parameter]:
        learning = set(self._head.parameters())
        return (parameter for parameter in self._model.parameters() if parameter not in learning)
