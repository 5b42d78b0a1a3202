"""An optimizer step as a captured graph: on a GPU, launching a step costs more than the step.

A graph always works on the same memory and the same numbers of atoms and pairs, so the batches are
padded (:mod:`kdlib.training.framestore`) to a few sizes, and one graph is captured for each size.
All of a step is inside: cutting the batch from the store, the loss, its gradient, the optimizer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kdlib.hipnn import HipnnModule, Prediction
from kdlib.hipnn.batches import Batch
from kdlib.training import losses
from kdlib.training.framestore import FrameStore, Room
from kdlib.training.losses import LossWeights

#: Sizes of a padded batch, from nothing to the largest batch there can be.
SIZES = 16


@dataclass
class _Captured:
    """What a graph reads and writes."""

    plan: Tensor
    work: Callable[[], tuple[Tensor, Prediction, Batch]]
    replay: Callable[[], None] | None = None
    found: tuple[Tensor, Prediction, Batch] | None = None


@dataclass(frozen=True)
class Step:
    """What a step found before it moved the weights.

    Attributes
    ----------
    values
        The loss and its terms, (1 + n_terms,).
    prediction, batch
        Of the frames of the step; they hold until the next one.
    """

    values: Tensor
    prediction: Prediction
    batch: Batch


class GraphedStep:
    """Optimizer steps of one stage of a training.

    Parameters
    ----------
    module
        Model whose whole network has fused kernels.
    optimizer
        Over ``trainable``; capturable on CUDA.
    trainable
        Parameters that the step moves.
    weights
        Of the loss; not of the stress.
    store
        Where the frames are. On the CPU the steps run as they are, without a graph.
    size
        Frames of a batch.
    """

    def __init__(
        self,
        module: HipnnModule,
        optimizer: torch.optim.Optimizer,
        trainable: Sequence[Tensor],
        weights: LossWeights,
        store: FrameStore,
        size: int,
    ) -> None:
        self._module, self._optimizer, self._trainable = module, optimizer, list(trainable)
        self._weights, self._store = weights, store
        self._largest = [int(np.sort(n)[-size:].sum()) for n in (store.n_atoms, store.n_pairs)]
        self._graphs: dict[tuple[Room, int], _Captured] = {}
        self._pool = None
        #: Names of the terms, in the order of :attr:`Step.values`.
        self.names = ["loss", *(f"loss_{t}" for t in losses.TERMS if getattr(weights, t))]

    def __call__(self, chosen: np.ndarray) -> Step:
        """Take a step on the frames ``chosen`` of the store."""
        n_atoms = int(self._store.n_atoms[chosen].sum())
        sizes = (self._store.n_atoms, self._store.n_pairs)
        room = Room(
            *(_rounded(int(n[chosen].sum()), m) for n, m in zip(sizes, self._largest, strict=True))
        )
        plan = torch.from_numpy(self._store.plan(chosen, room))
        captured = self._graphs.get((room, len(chosen)))
        if captured is None:
            captured = self._graphs[room, len(chosen)] = self._capture(plan, room)
        captured.plan.copy_(plan, non_blocking=True)
        if captured.replay is None:
            captured.found = captured.work()
        else:
            captured.replay()
        values, prediction, batch = captured.found
        return Step(values.clone(), *_real(prediction, batch, len(chosen), n_atoms))

    def _capture(self, plan: Tensor, room: Room) -> _Captured:
        captured = _Captured(
            plan.to(self._store.device), work=lambda: self._work(captured.plan, room)
        )
        if self._store.device.type != "cuda":
            return captured
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._gradient(captured.plan, room)  # compiles, and lets libraries take workspaces
            self._begin()
        torch.cuda.current_stream().wait_stream(stream)
        self._optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            captured.found = captured.work()
        self._pool = self._pool or graph.pool()
        captured.replay = graph.replay
        return captured

    def _begin(self) -> None:
        """Let the optimizer make its moments, without moving anything."""
        if self._optimizer.state:
            return
        for parameter in self._trainable:
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer.step()
        for moments in self._optimizer.state.values():
            moments["step"].zero_()

    def _work(self, plan: Tensor, room: Room) -> tuple[Tensor, Prediction, Batch]:
        self._optimizer.zero_grad(set_to_none=True)
        found = self._gradient(plan, room)
        self._optimizer.step()
        return found

    def _gradient(self, plan: Tensor, room: Room) -> tuple[Tensor, Prediction, Batch]:
        batch = self._store.padded(plan, room)
        prediction = self._module(batch, create_graph=True)
        # The frame that fills the room has no weight, but a mean over frames would count it.
        counted = replace(prediction, hierarchicality=prediction.hierarchicality[:-1])
        terms = losses.terms(self._module, counted, batch, self._weights)
        loss = losses.total(terms, self._weights)
        loss.backward(inputs=self._trainable)
        found = Prediction(
            prediction.energy.detach(),
            prediction.atomic_energies.detach(),
            prediction.hierarchicality.detach(),
            prediction.forces.detach(),
        )
        return torch.stack([loss, *terms.values()]).detach(), found, batch


def _rounded(n: int, largest: int) -> int:
    """Size of the room for ``n``, at least one more."""
    step = -(-largest // SIZES)
    return (n // step + 1) * step


def _real(prediction: Prediction, batch: Batch, n: int, n_atoms: int) -> tuple[Prediction, Batch]:
    """Without the frame that fills the room, and without pairs."""
    found = Prediction(
        energy=prediction.energy[:n],
        atomic_energies=prediction.atomic_energies[:n_atoms],
        hierarchicality=prediction.hierarchicality[:n],
        forces=prediction.forces[:n_atoms],
    )
    labels = batch.atomic_energies
    target = replace(
        batch,
        numbers=batch.numbers[:n_atoms],
        frame=batch.frame[:n_atoms],
        n_frames=n,
        energy=batch.energy[:n],
        forces=batch.forces[:n_atoms],
        atomic_energies=None if labels is None else labels[:n_atoms],
    )
    return found, target
