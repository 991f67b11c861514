"""Tasks, losses and metrics as people write them, named in specs by `tests.training.tasks:NAME`."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.config import Config
from src.datasets.data import Batch, Data
from src.training.steps.task import Optimizer, Task


class Autoencoder(Task):
    """Learns to give back its input through eight numbers."""

    metrics = ("loss", "error")

    def make_model(self) -> nn.Module:
        width = torch.Size(self.data.input_shape).numel()
        return nn.Sequential(nn.Flatten(), nn.Linear(width, 8), nn.Linear(8, width))

    def training_step(self, model: nn.Module, batch: Batch, step: int) -> Mapping[str, Tensor]:
        found = self.evaluation_step(model, batch)
        found["loss"].backward()
        self.optimizers[0].step()
        self.optimizers[0].zero_grad()
        return found

    def evaluation_step(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        x = batch[0].flatten(1)
        output = model(x)
        return {"loss": F.mse_loss(output, x), "error": (output - x).abs().mean()}


class Gan(Task):
    """A generator of two numbers and a discriminator, each with an optimizer of its own, two steps in each step."""

    metrics = ("loss", "generator_loss")

    def make_model(self) -> nn.Module:
        def net(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))

        return nn.ModuleDict({"generator": net(4, 2), "discriminator": net(2, 1)})

    def make_optimizers(self, model: nn.Module) -> Sequence[Optimizer]:
        assert isinstance(model, nn.ModuleDict)
        return [torch.optim.Adam(model["generator"].parameters(), 1e-2, betas=(0.5, 0.9)),
                torch.optim.Adam(model["discriminator"].parameters(), 2e-2, betas=(0.5, 0.9))]

    def training_step(self, model: nn.Module, batch: Batch, step: int) -> Mapping[str, Tensor]:
        generator, discriminator = self.optimizers
        losses = self._losses(model, batch[0])
        losses["loss"].backward()
        discriminator.step()
        model.zero_grad()
        losses["generator_loss"] = self._losses(model, batch[0])["generator_loss"]
        losses["generator_loss"].backward()
        generator.step()
        model.zero_grad()
        return losses

    def evaluation_step(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return self._losses(model, batch[0])

    def _losses(self, model: nn.Module, real: Tensor) -> dict[str, Tensor]:
        assert isinstance(model, nn.ModuleDict)
        made = model["generator"](torch.randn(len(real), 4, device=self.device))
        seen_real, seen_made = model["discriminator"](real), model["discriminator"](made.detach())
        return {"loss": F.softplus(-seen_real).mean() + F.softplus(seen_made).mean(),
                "generator_loss": F.softplus(-model["discriminator"](made)).mean()}


class Centered(Task):
    """Keeps a mean of its inputs beside the model, which another start must find again."""

    metrics = ("loss",)

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        super().__init__(config, data, device)
        self.mean = torch.zeros(*data.input_shape, device=device)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean = state["mean"].to(self.device)

    def training_step(self, model: nn.Module, batch: Batch, step: int) -> Mapping[str, Tensor]:
        self.mean = self.mean.lerp(batch[0].mean(0), 0.1)
        found = self.evaluation_step(model, batch)
        found["loss"].backward()
        self.optimizers[0].step()
        self.optimizers[0].zero_grad()
        return found

    def evaluation_step(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"loss": F.cross_entropy(model(batch[0] - self.mean), batch[1])}


class SharpnessAware(Task):
    """Steps by the gradient at the worst point within 0.05 (Foret et al., Sharpness-aware minimization, 2021)."""

    metrics = ("loss", "accuracy")

    def training_step(self, model: nn.Module, batch: Batch, step: int) -> Mapping[str, Tensor]:
        found = self.evaluation_step(model, batch)
        found["loss"].backward()
        with torch.no_grad():
            gradients = [parameter.grad.clone() for parameter in model.parameters()]
            norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
            moves = [0.05 * gradient / norm for gradient in gradients]
            torch._foreach_add_(list(model.parameters()), moves)
        model.zero_grad()
        self.evaluation_step(model, batch)["loss"].backward()
        with torch.no_grad():
            torch._foreach_sub_(list(model.parameters()), moves)
        self.optimizers[0].step()
        self.optimizers[0].zero_grad()
        return found

    def evaluation_step(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        x, y = batch
        output = model(x)
        return {"loss": F.cross_entropy(output, y), "accuracy": (output.argmax(1) == y).double().mean()}


class Silent(Autoencoder):
    metrics = ("loss", "error", "sharpness")  # and returns no such thing


class Lossless(Autoencoder):
    metrics = ("error",)


def focal(output: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, with less weight on what is right already (Lin et al., Focal loss, 2017)."""
    log_p = F.log_softmax(output, 1).gather(1, y[:, None])[:, 0]
    return -((1 - log_p.exp()) ** 2 * log_p).mean()


def squares(output: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(output[:, 0], y)


def second(output: Tensor, y: Tensor) -> Tensor:
    """Whether the right class is the second choice: a metric, a value for each sample."""
    return (output.topk(2).indices[:, 1] == y).float()


class Recall:
    """A metric with a value for each class: how many of its samples were recognised."""

    def __init__(self, n_outputs: int) -> None:
        self._right, self._all = torch.zeros(n_outputs), torch.zeros(n_outputs)

    def update(self, output: Tensor, y: Tensor) -> None:
        self._all += y.bincount(minlength=len(self._all))
        self._right += y[output.argmax(1) == y].bincount(minlength=len(self._all))

    def compute(self) -> Tensor:
        return self._right / self._all


def make_normed_net(input_shape: tuple[int, ...], output_dim: int) -> nn.Module:
    """A model with a batch norm, whose running statistics lag behind large steps."""
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(input_shape).numel(), 16), nn.BatchNorm1d(16), nn.ReLU(),
                         nn.Linear(16, output_dim))
