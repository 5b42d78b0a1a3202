"""A training step on a device: as :mod:`kdlib.training.directstep`, captured as a graph.

On a GPU, launching a step costs more than the step. A graph is launched once; it always works on
the same memory and numbers of frames and atoms, so layouts have room for a few numbers of atoms
(:mod:`kdlib.hipnn.device.passes`), and one graph is captured for each. All of a step is inside:
finding the frames, the loss, its gradient, and Adam; the steps of SOAP follow the graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdlib.hipnn import HipnnModule
from kdlib.hipnn.batches import Batch
from kdlib.hipnn.device import captured
from kdlib.hipnn.device.passes import DevicePasses, Layout, Pairs
from kdlib.hipnn.kernels.gradients import Gradients, Outputs
from kdlib.hipnn.kernels.trainmemory import FlatParameters
from kdlib.training.accuracy import TargetErrors
from kdlib.training.deviceloss import Comparison, DeviceReferences, compare, differentiate
from kdlib.training.directstep import References
from kdlib.training.losses import TERMS, LossWeights

#: Numbers of atoms that layouts have room for, from nothing to the largest batch there can be.
SIZES = 16
#: Most atoms of the validation part at a time: bounds the memory, not the result.
VALIDATION_ATOMS = 2**15


class DeviceFrames:
    """Frames of a part of the data, on a device: what a model makes of them, and how far off.

    Parameters
    ----------
    module
        Model that :class:`~kdlib.hipnn.kernels.gradients.Gradients` covers.
    frames
        One batch each, on the CPU.
    flat
        The model's parameters.
    """

    def __init__(self, module: HipnnModule, frames: Sequence[Batch], flat: FlatParameters) -> None:
        config, device = module.config, flat.values.device
        species = module._species_index.cpu()[torch.cat([frame.numbers for frame in frames])]
        self.pairs = Pairs(frames, species, len(config.species), config.cutoff, device)
        self.gradients = Gradients(module, DevicePasses(self.pairs), flat)
        self.host = known = References.of(frames)
        self.references = DeviceReferences(
            *(
                torch.as_tensor(array, device=device)
                for array in (known.energy, known.forces, known.atomic_energies, known.weight)
            ),
            e0=module.e0.double(),
        )

    def errors(self) -> TargetErrors:
        """Errors of the model on all frames."""
        errors = TargetErrors()
        n = self.pairs.n_atoms
        groups = np.cumsum(n) // VALIDATION_ATOMS
        for group in np.unique(groups):
            errors.add_differences(self._errors(np.flatnonzero(groups == group)))
        return errors

    def _errors(self, chosen: np.ndarray) -> dict[str, Tensor]:
        n = int(self.pairs.n_atoms[chosen].sum())
        where = Layout.of(len(chosen), n, self.pairs.device)
        self.pairs.lay_out(self.pairs.plan(chosen).to(self.pairs.device), where)
        stressed = self.host.has_stress[chosen]
        outputs = self.gradients.forces(where, bool(stressed.any()))
        labeled = bool(self.host.labeled[chosen].all())
        found = compare(outputs, self.references, None, labeled)
        errors = named_errors(found, n, labeled)
        if stressed.any():
            volume = self.host.volume[chosen][stressed, None, None]
            virial = outputs.virial.cpu().numpy()[stressed]
            errors["stress"] = virial / volume - self.host.stress[chosen][stressed]
        return errors


def named_errors(found: Comparison, n_atoms: int, labeled: bool) -> dict[str, Tensor]:
    """Copies of the errors by the names of the targets, without the room for more atoms."""
    errors = {
        "cell_energy": found.cell.clone(),
        "energy": found.energy.clone(),
        "force": found.force[:n_atoms].clone(),
    }
    if labeled:
        errors["atomic_energy"] = found.atomic[:n_atoms].clone()
    return errors


@dataclass
class _Captured:
    """What a graph reads and writes."""

    plan: Tensor
    where: Layout
    found: tuple[Tensor, Comparison] | None = None
    replay: Callable[[], None] | None = None


class DeviceStep:
    """Steps of the optimizer on frames of the training part.

    Parameters
    ----------
    module
        Model that :class:`~kdlib.hipnn.kernels.gradients.Gradients` covers, on the device. Its
        parameters become views of one vector.
    optimizer
        Over all trainable parameters. Adam, capturable on CUDA, is part of the graph; the steps of
        another follow it.
    train, valid
        Frames of the parts, one batch each, on the CPU.
    size
        Most frames of a step.
    """

    def __init__(
        self,
        module: HipnnModule,
        optimizer: torch.optim.Optimizer,
        train: Sequence[Batch],
        valid: Sequence[Batch],
        size: int,
    ) -> None:
        self.flat, self._optimizer = FlatParameters(module), optimizer
        self._inside = isinstance(optimizer, torch.optim.Adam)
        self._trainable = [p for p in module.parameters() if p.requires_grad]
        for parameter in self._trainable:
            parameter.grad = self.flat.view(self.flat.gradient, parameter)
        self._train = DeviceFrames(module, train, self.flat)
        self._valid = DeviceFrames(module, valid, self.flat) if valid else None
        self._device = self.flat.values.device
        largest = int(np.sort(self._train.pairs.n_atoms)[-size:].sum())
        self._unit = -(-largest // SIZES)
        self._train.gradients.reserve(self._unit * SIZES)
        self._graphs: dict[tuple, _Captured] = {}
        #: Weights as tensors, which graphs keep reading.
        self._scales: dict[LossWeights, Tensor] = {}
        self._pool = None

    def __call__(
        self, chosen: np.ndarray, weights: LossWeights
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Take a step on some frames.

        Returns
        -------
        tuple
            The loss and its unweighted terms (``loss``, ``loss_<term>``), and the errors by the
            names of the targets, before the step.
        """
        n = int(self._train.pairs.n_atoms[chosen].sum())
        room = -(-n // self._unit) * self._unit
        labeled = bool(self._train.host.labeled[chosen].all())
        plan = self._train.pairs.plan(chosen)
        key = room, len(chosen), labeled, weights
        if key not in self._graphs:
            self._graphs[key] = self._capture(plan, room, labeled, weights)
        step = self._graphs[key]
        step.plan.copy_(plan, non_blocking=True)
        step.replay()
        if not self._inside:
            self._optimizer.step()
        values, found = step.found
        loss, *terms = values.clone().unbind()
        named = {f"loss_{t}": v for t, v in zip(TERMS, terms, strict=True) if getattr(weights, t)}
        return {"loss": loss, **named}, named_errors(found, n, labeled)

    def valid_errors(self) -> TargetErrors:
        """Errors on the validation part."""
        return TargetErrors() if self._valid is None else self._valid.errors()

    def gradient(
        self, where: Layout, labeled: bool, weights: LossWeights
    ) -> tuple[Tensor, Comparison]:
        """Gradient of the loss, into ``flat.gradient``; the loss and its terms, and the errors."""
        known = self._train.references
        scale = self._scales[weights]
        outputs: Outputs = self._train.gradients.forces(where, False)
        found = compare(outputs, known, weights, labeled)
        terms, seed, by_force = differentiate(outputs, known, found, weights, labeled, scale)
        self._train.gradients.backward(seed, by_force, None)
        if weights.l2:
            regularized = self.flat.values[: self.flat.n_regularized]
            terms[TERMS.index("l2")] = torch.dot(regularized, regularized)
            slope = self.flat.gradient[: self.flat.n_regularized]
            slope.add_(regularized, alpha=2 * weights.l2)
        return torch.cat(((scale * terms).sum().view(1), terms)), found

    def _capture(self, plan: Tensor, room: int, labeled: bool, weights: LossWeights) -> _Captured:
        where = Layout.of(len(plan) // 2, room, self._device)
        scale = torch.tensor([getattr(weights, t) for t in TERMS], dtype=torch.float64)
        self._scales.setdefault(weights, scale.to(self._device))
        step = _Captured(plan.to(self._device), where)

        def gradient() -> None:
            self._train.pairs.lay_out(step.plan, where)
            step.found = self.gradient(where, labeled, weights)

        def work() -> None:
            gradient()
            if self._inside:
                self._optimizer.step()

        step.replay = work
        if self._device.type == "cuda":
            step.replay = self._graph(gradient, work)
        return step

    def _graph(self, gradient: Callable[[], None], work: Callable[[], None]) -> Callable[[], None]:
        def prepare() -> None:
            gradient()
            self._begin()

        graph = captured(work, prepare, self._pool)
        self._pool = self._pool or graph.pool()
        return graph.replay

    def _begin(self) -> None:
        """Let the optimizer make its moments, without moving anything."""
        if self._optimizer.state or not self._inside:
            return
        self.flat.gradient.zero_()
        self._optimizer.step()
        for moments in self._optimizer.state.values():
            moments["step"].zero_()
