"""A training step on the CPU without autograd: loss, gradient and optimizer in place.

The gradient is that of :mod:`kdlib.hipnn.kernels.gradients`, for the loss of
:mod:`kdlib.training.losses`. Pairs, references and work space are made once; a step allocates what
it gives away. Moments of the optimizer are kept where torch's Adam has them, as views of one vector
each, so that a checkpoint does not know who took the steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdlib._numba import compiled
from kdlib.hipnn import HipnnModule
from kdlib.hipnn.batches import Batch
from kdlib.hipnn.kernels.elementary import FASTMATH
from kdlib.hipnn.kernels.gradients import Gradients, Outputs
from kdlib.hipnn.kernels.pairtable import PairTable
from kdlib.hipnn.kernels.passes import Passes
from kdlib.hipnn.kernels.trainmemory import FlatParameters
from kdlib.training.accuracy import TargetErrors
from kdlib.training.losses import (
    TERMS,
    LossWeights,
    error_and_slope,
    hierarchicality_and_slope,
)


@dataclass(frozen=True)
class References:
    """What frames are trained on; units and missing values as in a :class:`Batch`."""

    energy: np.ndarray
    """(n_frames,)"""
    forces: np.ndarray
    """(n_atoms, 3)"""
    atomic_energies: np.ndarray
    """(n_atoms,); NaN in a frame without them."""
    stress: np.ndarray
    """(n_frames, 3, 3)"""
    volume: np.ndarray
    """(n_frames,)"""
    weight: np.ndarray
    """(n_frames,)"""
    labeled: np.ndarray
    """Whether a frame has atomic energies, (n_frames,) bool."""

    @classmethod
    def of(cls, frames: Sequence[Batch]) -> "References":
        """References of frames, one batch each."""

        def joined(name: str) -> np.ndarray:
            return torch.cat([getattr(frame, name) for frame in frames]).numpy()

        return cls(
            energy=joined("energy"),
            forces=joined("forces"),
            atomic_energies=torch.cat([_labels(frame) for frame in frames]).numpy(),
            stress=joined("stress"),
            volume=joined("volume"),
            weight=np.array([1.0 if f.weight is None else float(f.weight) for f in frames]),
            labeled=np.array([frame.atomic_energies is not None for frame in frames]),
        )

    @property
    def has_stress(self) -> np.ndarray:
        """Which frames have a reference stress, (n_frames,) bool."""
        return np.isfinite(self.stress).all(axis=(1, 2))


def _labels(frame: Batch) -> Tensor:
    if frame.atomic_energies is not None:
        return frame.atomic_energies
    return frame.energy.new_full((frame.n_atoms,), np.nan)


class Frames:
    """Frames of a part of the data: what a model makes of them, and how far off it is.

    Parameters
    ----------
    module
        Model that :class:`~kdlib.hipnn.kernels.gradients.Gradients` covers.
    frames
        One batch each.
    flat
        The model's parameters.
    """

    def __init__(self, module: HipnnModule, frames: Sequence[Batch], flat: FlatParameters) -> None:
        config = module.config
        species = module._species_index[torch.cat([frame.numbers for frame in frames])].numpy()
        table = PairTable.of(frames, species, len(config.species), config.cutoff)
        self._passes, self.references = Passes(table), References.of(frames)
        self.gradients = Gradients(module, self._passes, flat)
        self._atoms = table.atoms
        self._e0 = module.e0.numpy()

    def chunks(self, max_atoms: int) -> list[np.ndarray]:
        """Numbers of consecutive frames of at most ``max_atoms`` atoms together (or one frame)."""
        groups, filled = [[]], 0
        for k, size in enumerate(np.diff(self._atoms)):
            if groups[-1] and filled + size > max_atoms:
                groups.append([])
                filled = 0
            groups[-1].append(k)
            filled += size
        return [np.array(group) for group in groups]

    def evaluate(self, chosen: np.ndarray, strained: bool) -> "Found":
        """Predictions for some frames, and their errors."""
        outputs = self.gradients.forces(self._passes.select(chosen), strained)
        where, known = outputs.where, self.references
        isolated = self._e0[where.species]
        cell, totals, atomic, force = _differences(
            outputs.energies, outputs.forces, where.frame, where.atoms, chosen,
            known.energy, known.atomic_energies, known.forces,
        )  # fmt: skip
        errors = {"cell_energy": cell, "energy": cell / np.diff(where.begin), "force": force}
        if known.labeled[chosen].all():
            errors["atomic_energy"] = atomic
        volume = known.volume[chosen, None, None]
        stressed = np.zeros(len(chosen), bool)
        if strained:
            stress = outputs.virial / volume - known.stress[chosen]
            stressed = np.isfinite(known.stress[chosen]).all(axis=(1, 2))
            errors["stress"] = stress[stressed]
        return Found(
            outputs, isolated, known.weight[chosen], stressed, volume[stressed], errors, totals
        )


@compiled()
def _differences(own, forces, frame, atoms, chosen, energy, labels, reference):
    """Predicted minus reference: energies of cells, teacher's totals, atomic energies, forces."""
    cell, totals = -energy[chosen].astype(np.float64), np.zeros(chosen.size)
    atomic, force = np.empty_like(own), np.empty_like(forces)
    for i in range(own.size):
        cell[frame[i]] += own[i]
        atomic[i] = own[i] - labels[atoms[i]]
        totals[frame[i]] += atomic[i]
        for c in range(3):
            force[i, c] = forces[i, c] - reference[atoms[i], c]
    return cell, totals, atomic, force


@dataclass(frozen=True)
class Found:
    """What a model makes of some frames."""

    outputs: Outputs
    isolated: np.ndarray
    """Energies of the free atoms, (n_atoms,), eV; no other energy here contains them."""
    weight: np.ndarray
    """Weights of the frames, (n_frames,)."""
    stressed: np.ndarray
    """Whether a frame has a stress, (n_frames,)."""
    volume: np.ndarray
    """Volumes of those that have, (n_stressed, 1, 1), Angstrom^3."""
    errors: dict[str, np.ndarray]
    """Predicted minus reference, by the names of the targets."""
    totals: np.ndarray
    """The same of the teacher's total energies, (n_frames,), eV; NaN without them."""

    def loss(self, weights: LossWeights, slopes: "Slopes") -> dict[str, float]:
        """Terms of the loss that depend on the outputs; adds to its slopes."""
        where = self.outputs.where
        frames, atoms = self.weight, self.weight[where.frame]
        # Energies count as those of cells of so many atoms, if the weights refer to a size.
        size = weights.cell_atoms / np.diff(where.begin) if weights.cell_atoms else 1.0
        terms = {
            "energy": (size * self.errors["cell_energy"], frames, slopes.energy),
            "force": (self.errors["force"], atoms, slopes.forces),
            "atomic_energy": (self.errors.get("atomic_energy"), atoms, slopes.atomic),
            "total_energy": (size * self.totals, frames, slopes.energy),
        }
        values = {}
        for name, (errors, share, slope) in terms.items():
            if weight := getattr(weights, name):
                difference = errors.reshape(len(share), -1)
                values[name] = error_and_slope(difference, share, weight, slope)
        slopes.energy *= np.reshape(size, (-1, 1))
        if weight := weights.hierarchicality:
            values["hierarchicality"] = hierarchicality_and_slope(
                self.outputs.energies, self.isolated, len(frames), weight, slopes.atomic[:, 0]
            )
        if weight := weights.stress:
            difference = self.errors["stress"].reshape(-1, 9)
            slope = np.zeros(difference.shape)
            share = frames[self.stressed]
            values["stress"] = error_and_slope(difference, share, weight, slope)
            slopes.virial[self.stressed] = slope.reshape(-1, 3, 3) / self.volume
        return values


class Slopes:
    """Derivatives of a loss by the outputs of a model, zero at first."""

    def __init__(self, n_frames: int, n_atoms: int, real: np.dtype) -> None:
        self.energy, self.atomic = np.zeros((n_frames, 1)), np.zeros((n_atoms, 1))
        self.forces, self.virial = np.zeros((n_atoms, 3), real), np.zeros((n_frames, 3, 3), real)


class DirectStep:
    """Steps of the optimizer on frames of the training part.

    Parameters
    ----------
    module
        Model that :class:`~kdlib.hipnn.kernels.gradients.Gradients` covers. Its parameters become
        views of one vector.
    optimizer
        Over all trainable parameters; Adam takes its steps in place.
    train, valid
        Frames of the parts, one batch each.
    """

    def __init__(
        self,
        module: HipnnModule,
        optimizer: torch.optim.Optimizer,
        train: Sequence[Batch],
        valid: Sequence[Batch] = (),
    ) -> None:
        self.flat, self._optimizer = FlatParameters(module), optimizer
        self._train = Frames(module, train, self.flat)
        self._valid = Frames(module, valid, self.flat) if valid else None
        self._values, self._gradient = self.flat.values.numpy(), self.flat.gradient.numpy()
        self._adam = None
        if isinstance(optimizer, torch.optim.Adam):
            self._adam = InPlaceAdam(self.flat, optimizer)
        else:
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad = self.flat.view(self.flat.gradient, parameter)

    def adopt(self) -> None:
        """Take over the optimizer's state; call it when that was replaced."""
        if self._adam is not None:
            self._adam.adopt()

    def gradient(
        self, chosen: np.ndarray, weights: LossWeights
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Gradient of the loss of some frames, into ``flat.gradient``.

        Returns
        -------
        tuple
            The loss and its unweighted terms (``loss``, ``loss_<term>``), and the errors by the
            names of the targets.
        """
        found = self._train.evaluate(chosen, weights.stress > 0)
        where = found.outputs.where
        slopes = Slopes(len(chosen), len(where.frame), self._values.dtype)
        terms = found.loss(weights, slopes)
        seed = (slopes.atomic + slopes.energy[where.frame])[:, 0].astype(self._values.dtype)
        self._train.gradients.backward(seed, slopes.forces, slopes.virial)
        if weights.l2:
            n = self.flat.n_regularized
            terms["l2"] = add_l2(self._values[:n], weights.l2, self._gradient[:n])
        values = {name: terms[name] for name in TERMS if name in terms}
        loss = sum(getattr(weights, name) * value for name, value in values.items())
        return {"loss": loss, **{f"loss_{k}": v for k, v in values.items()}}, found.errors

    def valid_errors(self, max_atoms: int) -> TargetErrors:
        """Errors on the validation part, some frames of at most ``max_atoms`` atoms at a time."""
        errors = TargetErrors()
        for chosen in self._valid.chunks(max_atoms) if self._valid is not None else ():
            strained = self._valid.references.has_stress[chosen].any()
            errors.add_differences(self._valid.evaluate(chosen, bool(strained)).errors)
        return errors

    def move(self) -> None:
        """Let the optimizer take a step along the last gradient."""
        if self._adam is not None:
            self._adam.step()
        else:
            self._optimizer.step()


class InPlaceAdam:
    """Steps of torch's Adam in one loop, on its own moments, which become views of vectors."""

    def __init__(self, flat: FlatParameters, optimizer: torch.optim.Adam) -> None:
        self._flat, self._optimizer = flat, optimizer
        self._moments = {name: torch.zeros_like(flat.values) for name in ("exp_avg", "exp_avg_sq")}
        vectors = (flat.values, flat.gradient, *self._moments.values())
        self._vectors = [vector.numpy() for vector in vectors]
        self.adopt()

    def adopt(self) -> None:
        """Make the moments views of the vectors; call it when they were replaced."""
        self._step = torch.zeros(())
        for parameter in self._optimizer.param_groups[0]["params"]:
            state = self._optimizer.state[parameter]
            self._step += state.get("step", self._step) - self._step
            for name, vector in self._moments.items():
                view = self._flat.view(vector, parameter)
                view.copy_(state.get(name, torch.zeros_like(view)))
                state[name] = view
            state["step"] = self._step

    def step(self) -> None:
        """Move the parameters along the gradient."""
        group = self._optimizer.param_groups[0]
        self._step += 1
        n_steps = self._step.item()
        adam(*self._vectors, n_steps, group["lr"], *group["betas"], group["eps"])


@compiled(error_model="numpy", fastmath=FASTMATH)
def add_l2(values, weight, slope):
    """Sum of squares of ``values``; adds ``weight`` times its derivative to ``slope``."""
    total, twice = 0.0, values.dtype.type(2 * weight)
    for k in range(values.size):
        total += np.float64(values[k]) * np.float64(values[k])
        slope[k] += twice * values[k]
    return total


@compiled(error_model="numpy", fastmath=FASTMATH)
def adam(values, slope, mean, square, n_steps, rate, beta_1, beta_2, eps):
    """Step ``n_steps`` (from 1) of Adam, in place, as torch takes it."""
    real = values.dtype.type
    keep, blend, decay = real(beta_1), real(1 - beta_1), real(beta_2)
    size = real(rate / (1 - beta_1**n_steps))
    root, small = real(math.sqrt(1 - beta_2**n_steps)), real(eps)
    new = real(1 - beta_2)
    for k in range(values.size):
        g = slope[k]
        mean[k] = keep * mean[k] + blend * g
        square[k] = decay * square[k] + new * g * g
        values[k] -= size * mean[k] / (math.sqrt(square[k]) / root + small)
