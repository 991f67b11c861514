"""Layer-wise learning rates, and freezing of all layers but the head."""
from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.errors import ConfigError


def layer_scales(model: nn.Module, decay: float, head: nn.Module | None) -> dict[nn.Parameter, float]:
    """Return decay ** (number of layers after a parameter's layer) for each parameter; the head is the last layer.

    Layers are those that a model of timm defines, else the model's parts (Clark et al., ELECTRA, 2020; Bao et al.,
    BEiT, 2022). ConfigError if there is only one.
    """
    numbers = _numbers_of_timm(model) or {
        parameter: number for number, part in enumerate(_parts(model)) for parameter in part.parameters()}
    last = max(numbers.values(), default=0)
    in_head = set(head.parameters()) if head else set()
    if last == 0:
        raise ConfigError("the model has only one layer", where="layer_decay", allowed="null")
    return {parameter: decay ** (0 if parameter in in_head else last - numbers.get(parameter, last))
            for parameter in model.parameters()}


def _numbers_of_timm(model: nn.Module) -> dict[nn.Parameter, int]:
    """Return the number of each parameter's layer in a model of timm; empty for other models."""
    if not hasattr(model, "group_matcher"):
        return {}
    from timm.models import group_parameters

    numbers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    return {parameter: numbers[name] for name, parameter in model.named_parameters() if name in numbers}


def _parts(model: nn.Module) -> list[nn.Module]:
    """Return the children that have parameters, in order, descending into sequences and into an only child."""
    parts = _with_parameters(model)
    if len(parts) == 1 and next(model.parameters(recurse=False), None) is None:
        return _parts(parts[0]) or parts
    return [part for child in parts for part in _members(child)]


def _members(part: nn.Module) -> list[nn.Module]:
    """Return the members of a sequence, recursively; any other part is returned as it is."""
    if not isinstance(part, nn.Sequential | nn.ModuleList):
        return [part]
    return [member for child in _with_parameters(part) for member in _members(child)]


def _with_parameters(model: nn.Module) -> list[nn.Module]:
    return [child for child in model.children() if next(child.parameters(), None) is not None]


class Freeze:
    """Freezes the backbone, all parameters but the head's.

    until: epoch from which all parameters are trained; None: the backbone is frozen for the whole training.
    The statistics of its batch norms do not change while it is frozen.
    """

    def __init__(self, model: nn.Module, head: nn.Module, until: int | None) -> None:
        self._model, self._head, self._until = model, head, until
        self._frozen = False

    def apply(self, epoch: int) -> None:
        """Freeze or unfreeze the backbone for an epoch."""
        frozen = self._until is None or epoch < self._until
        if frozen != self._frozen:
            for parameter in self._backbone():
                parameter.requires_grad_(not frozen)
            self._frozen = frozen

    def set_eval_mode(self) -> None:
        """Set frozen batch norms to evaluation mode; call it after model.train()."""
        if self._frozen:
            head_modules = set(self._head.modules())
            for module in self._model.modules():
                if isinstance(module, _BatchNorm) and module not in head_modules:
                    module.eval()

    def _backbone(self) -> Iterator[nn.Parameter]:
        trained = set(self._head.parameters())
        return (parameter for parameter in self._model.parameters() if parameter not in trained)
