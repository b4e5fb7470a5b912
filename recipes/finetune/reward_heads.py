"""Heads that turn a model's hidden state into one number: linear, or leaky spiking neurons."""

from __future__ import annotations

from typing import Any

from engine.errors import MissingPart


def linear_head(width: int) -> Any:
    """A bias-free linear map from ``width`` features to one reward."""
    import torch

    class LinearHead(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.out = torch.nn.Linear(width, 1, bias=False)

        def forward(self, features: Any) -> Any:
            return self.out(features).squeeze(-1)

    return LinearHead()


def spiking_head(width: int, neurons: int, ticks: int) -> Any:
    """Leaky integrate-and-fire neurons on the features, read out by their firing rates.

    The features drive the neurons with a constant current for ``ticks`` steps; the reward is a
    linear map of each neuron's mean rate. Gradients pass the spikes by snntorch's arctangent
    surrogate (Fang et al. 2021); the leak of every neuron is learned.

    Raises:
        MissingPart: snntorch is not installed.
    """
    import torch

    try:
        import snntorch
        from snntorch import surrogate
    except ImportError as error:
        raise MissingPart(
            "the spiking reward head needs snntorch",
            why=str(error),
            hint="pip install 'modelops-tui[preference]', or set preference.head = \"linear\"",
        ) from error

    class SpikingHead(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.current = torch.nn.Linear(width, neurons)
            self.leak = snntorch.Leaky(
                beta=torch.full((neurons,), 0.9), learn_beta=True, spike_grad=surrogate.atan()
            )
            self.out = torch.nn.Linear(neurons, 1, bias=False)

        def forward(self, features: Any) -> Any:
            return self.out(self.rates(features)).squeeze(-1)

        def rates(self, features: Any) -> Any:
            """Mean firing rate of every neuron: (batch, neurons), each between 0 and 1."""
            current = self.current(features)
            potential = torch.zeros_like(current)
            total = torch.zeros_like(current)
            for _ in range(ticks):
                spikes, potential = self.leak(current, potential)
                total = total + spikes
            return total / ticks

    return SpikingHead()


def make_head(kind: str, width: int, neurons: int, ticks: int) -> Any:
    """The head called ``linear`` or ``spiking``."""
    return linear_head(width) if kind == "linear" else spiking_head(width, neurons, ticks)


def pairwise_loss(chosen: Any, rejected: Any) -> Any:
    """Bradley-Terry: ``-log sigmoid(chosen - rejected)``, the mean over the pairs."""
    import torch

    return -torch.nn.functional.logsigmoid(chosen - rejected).mean()
