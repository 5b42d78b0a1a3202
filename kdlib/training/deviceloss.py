"""The loss of :mod:`kdlib.training.losses`, and its slopes by energies and forces, on a device.

Two kernels, whatever terms there are: one compares each frame with its references and sums up, the
other turns the sums of all frames into errors and slopes. Sums are float64, and each is formed in
one order, so that the same input gives the same bits.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdlib.hipnn.device.passes import Layout
from kdlib.hipnn.kernels.gradients import Outputs
from kdlib.training.losses import TERMS, LossWeights

#: Terms of the kernels, by their places in :data:`~kdlib.training.losses.TERMS`.
_ENERGY, _FORCE, _ATOMIC, _TOTAL, _HIERARCHICALITY = (
    tl.constexpr(TERMS.index(name))
    for name in ("energy", "force", "atomic_energy", "total_energy", "hierarchicality")
)
#: Numbers kept for a term: sum of the weights, weighted sums of squares and of sizes.
_KEPT = tl.constexpr(3)
_N_TERMS = tl.constexpr(len(TERMS))
_LANES = 128


@dataclass(frozen=True)
class DeviceReferences:
    """:class:`kdlib.training.directstep.References` as tensors on a device."""

    energy: Tensor
    forces: Tensor
    atomic_energies: Tensor
    weight: Tensor
    e0: Tensor
    """Energies of the free atoms by species channel, eV, float64."""


@dataclass(frozen=True)
class Comparison:
    """Predicted minus reference, for the frames of a layout."""

    cell: Tensor
    """Energies of cells, (n_frames,) float64, eV."""
    energy: Tensor
    """The same per atom."""
    totals: Tensor
    """The teacher's energies of cells, (n_frames,) float64, eV; zero where none are compared."""
    atomic: Tensor
    """Atomic energies, (n_atoms,), eV; not set where none are compared."""
    force: Tensor
    """(n_atoms, 3), eV/Angstrom."""
    sums: Tensor
    """(n_frames, n_terms, 3) float64."""


@triton.jit
def _keep(sums, f, term, share, squares, sizes):
    at = sums + (f * _N_TERMS + term) * _KEPT
    tl.store(at, share)
    tl.store(at + 1, squares)
    tl.store(at + 2, sizes)


@triton.jit
def _hierarchicality(own, isolated):
    """Value a^2 / (a^2 + b^2) of an atom, and its slope 2 a b^2 / (a^2 + b^2)^2."""
    inverse = 1.0 / (own * own + isolated * isolated)
    ratio = isolated * inverse
    return own * own * inverse, 2.0 * own * ratio * ratio


@triton.jit
def _compare(
    own, forces, first, chosen, move, species, energy, labels, reference, weights, e0,
    cell, per_atom, totals, atomic, force, sums,
    CELL_ATOMS: tl.constexpr, LABELED: tl.constexpr, HIERARCHY: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    f = tl.program_id(0)
    begin, stop = tl.load(first + f), tl.load(first + f + 1)
    frame = tl.load(chosen + f)
    w = tl.load(weights + frame)
    zero = tl.zeros((LANES,), tl.float64)
    of_cell, of_total, squares, sizes, h = zero, zero, zero, zero, zero
    force_squares, force_sizes = zero, zero
    for start in range(begin, stop, LANES):
        i = start + tl.arange(0, LANES)
        inside = i < stop
        number = i + tl.load(move + i, mask=inside, other=0)
        a = tl.load(own + i, mask=inside, other=0.0).to(tl.float64)
        of_cell += a
        if LABELED:
            d = a - tl.load(labels + number, mask=inside, other=0.0).to(tl.float64)
            tl.store(atomic + i, d, mask=inside)
            of_total += d
            squares += d * d
            sizes += tl.abs(d)
        if HIERARCHY:
            channel = tl.load(species + i, mask=inside, other=0)
            value, _ = _hierarchicality(a, tl.load(e0 + channel))
            h += tl.where(inside, value, 0.0)
        for c in tl.static_range(3):
            d = tl.load(forces + 3 * i + c, mask=inside, other=0.0).to(tl.float64)
            d -= tl.load(reference + 3 * number + c, mask=inside, other=0.0).to(tl.float64)
            tl.store(force + 3 * i + c, d, mask=inside)
            force_squares += d * d
            force_sizes += tl.abs(d)
    n = (stop - begin).to(tl.float64)
    size = CELL_ATOMS / n if CELL_ATOMS > 0 else n / n
    difference = tl.sum(of_cell) - tl.load(energy + frame)
    total = tl.sum(of_total)
    tl.store(cell + f, difference)
    tl.store(per_atom + f, difference / n)
    tl.store(totals + f, total)
    counted = w > 0  # infinity times a weight of zero would be NaN
    difference = tl.where(counted, size * difference, 0.0)
    total = tl.where(counted, size * total, 0.0)
    _keep(sums, f, _ENERGY, w, w * difference * difference, w * tl.abs(difference))
    _keep(sums, f, _TOTAL, w, w * total * total, w * tl.abs(total))
    squares = tl.where(counted, w * tl.sum(squares), 0.0)
    _keep(sums, f, _ATOMIC, n * w, squares, tl.where(counted, w * tl.sum(sizes), 0.0))
    squares = tl.where(counted, w * tl.sum(force_squares), 0.0)
    _keep(sums, f, _FORCE, 3.0 * n * w, squares, tl.where(counted, w * tl.sum(force_sizes), 0.0))
    _keep(sums, f, _HIERARCHICALITY, n / n, tl.sum(h), n * 0.0)


@triton.jit
def _term(sums, term, n_frames, FRAMES: tl.constexpr):
    """RMSE, MAE, and one over the sum of the weights and over the RMSE; zero for zero."""
    f = tl.arange(0, FRAMES)
    at = sums + (f * _N_TERMS + term) * _KEPT
    share = tl.sum(tl.load(at, mask=f < n_frames, other=0.0))
    squares = tl.sum(tl.load(at + 1, mask=f < n_frames, other=0.0))
    sizes = tl.sum(tl.load(at + 2, mask=f < n_frames, other=0.0))
    over = tl.where(share > 0.0, 1.0 / tl.where(share > 0.0, share, 1.0), 0.0)
    rmse = tl.sqrt(squares * over)
    inverse = tl.where(rmse > 0.0, 1.0 / tl.where(rmse > 0.0, rmse, 1.0), 0.0)
    return rmse, sizes * over, over, inverse


@triton.jit
def _slope(d, scale, inverse):
    """Derivative of RMSE + MAE by a difference, ``scale`` times the weight's share."""
    sign = (d > 0.0).to(tl.float64) - (d < 0.0).to(tl.float64)
    return scale * (d * inverse + sign)


@triton.jit(do_not_specialize=["n_atoms"])
def _differentiate(
    own, first, chosen, species, weights, e0, cell, totals, atomic, force, sums, scale,
    values, seed, by_force, n_atoms,
    CELL_ATOMS: tl.constexpr, LABELED: tl.constexpr, HIERARCHY: tl.constexpr,
    LANES: tl.constexpr, FRAMES: tl.constexpr,
):  # fmt: skip
    f, n_frames = tl.program_id(0), tl.num_programs(0) - 1
    last = f == n_frames  # it owns the atoms that no frame owns
    begin = tl.load(first + f)
    stop = tl.load(first + tl.where(last, f, f + 1))
    frame = tl.load(chosen + tl.where(last, 0, f))
    w = tl.where(last, 0.0, tl.load(weights + frame))
    stop = tl.where(last, n_atoms, stop)
    n = (stop - begin).to(tl.float64)
    size = CELL_ATOMS / tl.where(last, 1.0, n) if CELL_ATOMS > 0 else tl.where(last, 1.0, 1.0)
    place = tl.where(last, 0, f)

    rmse, mae, over, inverse = _term(sums, _ENERGY, n_frames, FRAMES)
    tl.store(values + _ENERGY, rmse + mae, mask=f == 0)
    difference = tl.where(w > 0.0, size * tl.load(cell + place), 0.0)
    of_cell = size * _slope(difference, tl.load(scale + _ENERGY) * w * over, inverse)
    rmse, mae, over, force_inverse = _term(sums, _FORCE, n_frames, FRAMES)
    tl.store(values + _FORCE, rmse + mae, mask=f == 0)
    force_scale = tl.load(scale + _FORCE) * w * over
    rmse, mae, over, atomic_inverse = _term(sums, _ATOMIC, n_frames, FRAMES)
    tl.store(values + _ATOMIC, rmse + mae, mask=f == 0)
    atomic_scale = tl.load(scale + _ATOMIC) * w * over
    rmse, mae, over, inverse = _term(sums, _TOTAL, n_frames, FRAMES)
    tl.store(values + _TOTAL, rmse + mae, mask=f == 0)
    difference = tl.where(w > 0.0, size * tl.load(totals + place), 0.0)
    of_cell += size * _slope(difference, tl.load(scale + _TOTAL) * w * over, inverse)
    k = tl.arange(0, FRAMES)
    at = sums + (k * _N_TERMS + _HIERARCHICALITY) * _KEPT + 1
    h = tl.sum(tl.load(at, mask=k < n_frames, other=0.0)) / n_frames
    tl.store(values + _HIERARCHICALITY, h, mask=f == 0)
    h_scale = tl.where(last, 0.0, tl.load(scale + _HIERARCHICALITY) / n_frames)

    counted = tl.where(w > 0.0, stop, begin)
    for start in range(begin, stop, LANES):
        i = start + tl.arange(0, LANES)
        inside = i < stop
        of_atom = tl.zeros((LANES,), tl.float64) + of_cell
        if LABELED:
            d = tl.load(atomic + i, mask=i < counted, other=0.0).to(tl.float64)
            of_atom += _slope(d, atomic_scale, atomic_inverse)
        if HIERARCHY:
            a = tl.load(own + i, mask=inside, other=0.0).to(tl.float64)
            channel = tl.load(species + i, mask=inside, other=0)
            _, slope = _hierarchicality(a, tl.load(e0 + channel))
            of_atom += h_scale * slope
        tl.store(seed + i, of_atom, mask=inside)
        for c in tl.static_range(3):
            d = tl.load(force + 3 * i + c, mask=i < counted, other=0.0).to(tl.float64)
            tl.store(by_force + 3 * i + c, _slope(d, force_scale, force_inverse), mask=inside)


def compare(
    outputs: Outputs, known: DeviceReferences, weights: LossWeights | None, labeled: bool
) -> Comparison:
    """Compare what a model makes of a layout with the references.

    Parameters
    ----------
    weights
        Of the loss, if one is to be formed from the result.
    labeled
        Whether all its frames have atomic energies.
    """
    where: Layout = outputs.where
    n_frames, real = len(where.chosen), outputs.energies.dtype
    double = {"dtype": torch.float64, "device": outputs.energies.device}
    found = Comparison(
        cell=torch.empty(n_frames, **double),
        energy=torch.empty(n_frames, **double),
        totals=torch.empty(n_frames, **double),
        atomic=torch.empty_like(outputs.energies),
        force=torch.empty_like(outputs.forces, dtype=real),
        sums=torch.empty(n_frames, len(TERMS), _KEPT.value, **double),
    )
    _compare[(n_frames,)](
        outputs.energies, outputs.forces, where.first, where.chosen, where.move, where.species,
        known.energy, known.atomic_energies, known.forces, known.weight, known.e0, found.cell,
        found.energy, found.totals, found.atomic, found.force, found.sums,
        LABELED=labeled, LANES=_LANES, **_options(weights),
    )  # fmt: skip
    return found


def differentiate(
    outputs: Outputs,
    known: DeviceReferences,
    found: Comparison,
    weights: LossWeights,
    labeled: bool,
    scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Terms of the loss and their derivatives.

    Parameters
    ----------
    scale
        Weights in the order of :data:`~kdlib.training.losses.TERMS`, float64.

    Returns
    -------
    tuple
        The unweighted terms in that order, float64, zero for those that are not formed here;
        derivatives by the atomic energies, (n_atoms,), and by the forces, (n_atoms, 3).
    """
    where: Layout = outputs.where
    values = torch.zeros_like(scale)
    seed, by_force = torch.empty_like(outputs.energies), torch.empty_like(outputs.forces)
    _differentiate[(len(where.chosen) + 1,)](
        outputs.energies, where.first, where.chosen, where.species, known.weight, known.e0,
        found.cell, found.totals, found.atomic, found.force, found.sums, scale,
        values, seed, by_force, len(seed), LABELED=labeled, LANES=_LANES,
        FRAMES=triton.next_power_of_2(len(where.chosen)), **_options(weights),
    )  # fmt: skip
    return values, seed, by_force


def _options(weights: LossWeights | None) -> dict[str, bool | float]:
    if weights is None:
        return {"CELL_ATOMS": 0.0, "HIERARCHY": False}
    return {"CELL_ATOMS": float(weights.cell_atoms), "HIERARCHY": weights.hierarchicality > 0}
