r"""Loss functions of the paper, term by term.

Every error term is eq. 3, the sum of root-mean-square and mean absolute error over a minibatch,

.. math:: L_{err}(\hat V, V) = RMSE(\hat V, V) + MAE(\hat V, V),

of cell energies (eV), force components (eV/Angstrom), atomic energies (eV) or stress components
(eV/Angstrom^3). The teacher's and the controls' loss (eq. 2) and the student's (eq. 5) are one
weighted sum,

.. math:: L = w_E L_{err}(\hat E, E) + w_F L_{err}(\hat F, F) + w_A L_{err}(\varepsilon,
          \varepsilon^T) + w_{L2} L_{L2} + w_R L_R,

where w_A = 0 gives eq. 2: a term of weight zero is not evaluated. The term of the stress, w_S, is
not in the paper: its error covers the frames of the minibatch that have a stress, over all nine
components of the tensor, so that the RMSE does not depend on the orientation of the axes.

Frames may have weights (``Batch.weight``; not in the paper either), which make the means of eq. 3
weighted ones.

A step without autograd (:mod:`kdlib.training.directstep`) needs the derivatives of the terms by
what a model predicts, in closed form: :func:`error_and_slope` and :func:`hierarchicality_and_slope`
stand below the terms that they belong to.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from kdlib._numba import compiled
from kdlib.errors import InputError
from kdlib.hipnn import HipnnModule, Prediction
from kdlib.hipnn.batches import Batch

#: Loss terms by the names of their weights.
TERMS = ("energy", "force", "atomic_energy", "total_energy", "l2", "hierarchicality", "stress")
#: Number of epochs that the paper's Table 1 is made for (the authors' maximum).
TABLE_1_EPOCHS = 500


class _Error(Function):
    """RMSE + MAE of differences: one torch function instead of a dozen small ones."""

    # L = sqrt(mean d^2) + mean |d|:  dL/dd = (d / RMSE + sign d) / n
    @staticmethod
    def forward(ctx: FunctionCtx, difference: Tensor) -> Tensor:
        rmse = difference.square().mean().sqrt()
        ctx.save_for_backward(difference, rmse)
        return rmse + difference.abs().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        difference, rmse = ctx.saved_tensors
        # If the RMSE is zero, so are all differences: any denominator gives subgradient 0.
        direction = difference / rmse.clamp_min(torch.finfo(rmse.dtype).tiny)
        return direction.add_(difference.sign()).mul_(grad / difference.numel())


class _WeightedError(Function):
    """The same for weighted differences; the shares add up to one, or all are zero."""

    # L = sqrt(sum s d^2) + sum s |d|:  dL/dd = s (d / RMSE + sign d)
    @staticmethod
    def forward(ctx: FunctionCtx, difference: Tensor, share: Tensor) -> Tensor:
        rmse = (share * difference.square()).sum().sqrt()
        ctx.save_for_backward(difference, share, rmse)
        return rmse + (share * difference.abs()).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        difference, share, rmse = ctx.saved_tensors
        # The share comes first: infinity times a share of zero would be NaN.
        direction = share * difference / rmse.clamp_min(torch.finfo(rmse.dtype).tiny)
        return direction.add_(share * difference.sign()).mul_(grad), None


def error(predicted: Tensor, reference: Tensor, weight: Tensor | None = None) -> Tensor:
    """Eq. 3: RMSE plus MAE, in the unit of the arguments; differentiable once.

    Weights along the first axis make the means weighted ones; where all are zero, so is the error.
    The subgradient is 0 where the error is exactly zero.
    """
    difference = predicted - reference
    if weight is None:
        return _Error.apply(difference)
    share = weight.reshape(-1, *[1] * (difference.dim() - 1)).expand_as(difference)
    total = share.sum().clamp_min(torch.finfo(share.dtype).tiny)
    return _WeightedError.apply(difference, share / total)


@compiled(error_model="numpy")
def error_and_slope(difference, weight, scale, slope):
    """Eq. 3 of differences (n, m) with weights (n,), as :func:`error`; 0 if none has a weight.

    Adds ``scale`` times the derivative by the differences to ``slope`` (n, m). Sums are float64.
    """
    n, m = difference.shape
    share = squares = sizes = 0.0
    for i in range(n):
        for c in range(m):
            d, w = np.float64(difference[i, c]), np.float64(weight[i])
            share += w
            squares += w * d * d
            sizes += w * abs(d)
    if share == 0:
        return 0.0
    rmse = math.sqrt(squares / share)
    inverse = 1 / rmse if rmse > 0 else 0.0
    for i in range(n):
        for c in range(m):
            d = np.float64(difference[i, c])
            slope[i, c] += scale * weight[i] / share * (d * inverse + np.sign(d))
    return rmse + sizes / share


def l2(module: HipnnModule) -> Tensor:
    """Sum of squares of the network's interaction and layer weights (hippynn's ``l2reg``)."""
    # In the order of the parameters' names, so that all processes agree to the last bit.
    regularized = {id(p) for p in module.network.regularization_params()}
    chosen = [p.flatten() for p in module.network.parameters() if id(p) in regularized]
    weights = torch.cat(chosen)
    return weights.dot(weights)


def hierarchicality(prediction: Prediction) -> Tensor:
    """Mean over frames of HIP-NN's non-hierarchicality (DOI 10.1063/1.5011181, eq. 11)."""
    return prediction.hierarchicality.mean()


@compiled(error_model="numpy")
def hierarchicality_and_slope(own, isolated, n_frames, scale, slope):
    """The same from the energies of the atoms, (n_atoms,), eV: the network's, the isolated atoms'.

    Adds ``scale`` times the derivative by the network's energies to ``slope`` (n_atoms,).
    """
    # h = a^2 / (a^2 + b^2):  dh/da = 2 a b^2 / (a^2 + b^2)^2
    total = 0.0
    for i in range(own.size):
        a, b = np.float64(own[i]), np.float64(isolated[i])
        inverse = 1 / (a * a + b * b)
        total += a * a * inverse
        slope[i] += scale / n_frames * 2 * a * (b * inverse) ** 2
    return total / n_frames


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; the defaults are the paper's teacher and control (A.1)."""

    energy: float = 1.0
    """w_E, per eV."""
    force: float = 10.0
    """w_F, per eV/Angstrom."""
    atomic_energy: float = 0.0
    """w_A, per eV; zero unless the model learns from a teacher."""
    l2: float = 1e-6
    """w_L2."""
    hierarchicality: float = 0.01
    """w_R."""
    total_energy: float = 0.0
    """Weight of the *teacher's* total energy, per eV: an ablation of the atomic-energy term without
    the teacher's partition among atoms (not in the paper).
    """
    stress: float = 0.0
    """w_S, per eV/Angstrom^3 (not in the paper). At about 300, a stress error of 0.003
    eV/Angstrom^3 (0.5 GPa) counts as much as a force error of 0.1 eV/Angstrom at w_F = 10; sensible
    values are 100 to 1000.
    """
    cell_atoms: float = 0.0
    """Number of atoms that ``energy`` and ``total_energy`` refer to: the error per atom times this
    number takes the place of that of the cell. 0: the cell as it is, as in the paper.
    """

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if not 0 <= weight < float("inf"):
                raise InputError(f"LossWeights: {name} is {weight}, must be finite and >= 0")
        if not any(getattr(self, name) for name in TERMS):
            raise InputError("LossWeights: all are 0, nothing would be learned")

    @property
    def needs_atomic_energies(self) -> bool:
        """Whether the loss contains a teacher's atomic energies."""
        return self.atomic_energy > 0 or self.total_energy > 0


def terms(
    module: HipnnModule, prediction: Prediction, batch: Batch, weights: LossWeights
) -> dict[str, Tensor]:
    """Unweighted loss terms with a weight above zero, by the names of :class:`LossWeights`."""
    frames = batch.weight
    # A frame's weight applies to each of its atoms: a mean over atoms counts large cells more.
    atoms = None if frames is None else frames[batch.frame]
    scale = _energy_scale(batch, weights.cell_atoms)
    functions = (
        lambda: error(prediction.energy * scale, batch.energy * scale, frames),
        lambda: error(prediction.forces, batch.forces, atoms),
        lambda: error(prediction.atomic_energies, batch.atomic_energies, atoms),
        lambda: error(prediction.energy * scale, _teacher_total(batch) * scale, frames),
        lambda: l2(module),
        lambda: hierarchicality(prediction),
        lambda: _stress(prediction, batch),
    )
    pairs = zip(TERMS, functions, strict=True)
    return {name: term() for name, term in pairs if getattr(weights, name)}


def _energy_scale(batch: Batch, cell_atoms: float) -> Tensor | float:
    """Factor of each frame's energy error, (n_frames,); 1 where cells count as they are."""
    if not cell_atoms:
        return 1.0
    sizes = torch.bincount(batch.frame, minlength=batch.n_frames)
    return cell_atoms / sizes.to(batch.vectors.dtype)


def total(values: Mapping[str, Tensor], weights: LossWeights) -> Tensor:
    """Weighted sum of the terms, eqs. 2 and 5."""
    return sum(getattr(weights, name) * value for name, value in values.items())


def _stress(prediction: Prediction, batch: Batch) -> Tensor:
    """Eq. 3 of the stresses, eV/Angstrom^3; zero if no frame has one."""
    errors = batch.stress_errors(prediction.virial)
    if not len(errors):
        return 0 * prediction.virial.sum()  # keeps a graph for backward
    weight = None if batch.weight is None else batch.weight[batch.has_stress]
    return error(errors, torch.zeros_like(errors), weight)


def _teacher_total(batch: Batch) -> Tensor:
    empty = batch.atomic_energies.new_zeros(batch.n_frames)
    return empty.index_add(0, batch.frame, batch.atomic_energies)


@dataclass(frozen=True)
class WeightSchedule:
    """Loss weights that change with the epoch, piecewise constant."""

    stages: tuple[tuple[int, LossWeights], ...]
    """``(first epoch, weights)`` in ascending order; epochs count from 1."""

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.stages]
        if not starts or starts[0] != 1 or sorted(set(starts)) != starts:
            raise InputError(f"WeightSchedule: stages start at {starts}, must ascend from epoch 1")

    @classmethod
    def constant(cls, weights: LossWeights) -> "WeightSchedule":
        """Schedule of one stage."""
        return cls(((1, weights),))

    def at(self, epoch: int) -> LossWeights:
        """Weights at an epoch."""
        return [weights for start, weights in self.stages if start <= epoch][-1]

    def starts_stage(self, epoch: int) -> bool:
        """Whether a stage starts at this epoch."""
        return any(start == epoch for start, _ in self.stages)

    @property
    def last_start(self) -> int:
        """First epoch of the last stage, from which the best epoch is chosen."""
        return self.stages[-1][0]

    @property
    def needs_atomic_energies(self) -> bool:
        """Whether any stage learns from a teacher's atomic energies."""
        return any(weights.needs_atomic_energies for _, weights in self.stages)

    @property
    def needs_stress(self) -> bool:
        """Whether any stage learns from stresses."""
        return any(weights.stress > 0 for _, weights in self.stages)

    def referred_to(self, cell_atoms: float) -> "WeightSchedule":
        """Schedule whose weights of energies refer to cells of this many atoms."""
        return WeightSchedule(
            tuple((start, replace(w, cell_atoms=cell_atoms)) for start, w in self.stages)
        )

    def scaled(self, max_epochs: int, written_for: int = TABLE_1_EPOCHS) -> "WeightSchedule":
        """Return the schedule scaled to ``max_epochs``; the last of coinciding stages stays."""
        moved = {
            min(max_epochs, round((start - 1) * max_epochs / written_for) + 1): weights
            for start, weights in self.stages
        }
        return WeightSchedule(tuple(moved.items()))

    def without_atomic_energies(self) -> "WeightSchedule":
        """Return the control of the schedule, with zero weight of the atomic energies."""
        return WeightSchedule(
            tuple((start, replace(w, atomic_energy=0.0)) for start, w in self.stages)
        )


#: The paper's Table 1, the Born-Again schedule, as printed: it ends at w_F = 15 although section
#: 3.5 says that the last weights are the teacher's (w_F = 10).
TABLE_1 = WeightSchedule(
    tuple(
        (start, LossWeights(energy=w_e, force=w_f, atomic_energy=w_a))
        for start, w_a, w_f, w_e in (
            (1, 200.0, 75.0, 0.0),
            (200, 160.0, 63.0, 0.2),
            (250, 120.0, 51.0, 0.4),
            (300, 80.0, 39.0, 0.6),
            (350, 40.0, 27.0, 0.8),
            (400, 0.0, 15.0, 1.0),
        )
    )
)
