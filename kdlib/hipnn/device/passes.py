"""Which frames a training step takes, and its passes over their pairs, on a device.

As :mod:`kdlib.hipnn.kernels.passes` on the CPU. The pairs of all frames lie on the device and stay
where they are: a program finds those of its atom there, so that choosing frames costs one small
kernel, whatever their size.

A *layout* has room for more atoms than its frames hold, so that captured work can be repeated for
other frames: the atoms left over have no pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from kdlib.hipnn.batches import Batch
from kdlib.hipnn.device import gradients as kernels
from kdlib.hipnn.device import trainlayers
from kdlib.hipnn.device.loops import (
    MOST_GRADIENTS,
    MOST_SUMS,
    block_of,
    by_block,
    lanes,
    partial_gradients,
)
from kdlib.hipnn.device.pairs import INTERPRETED
from kdlib.hipnn.kernels.sums import SCALE

#: Centers and widths of the sensitivities, (n_sensitivities,) each: m = 1/mu, 1/Angstrom; sigma,
#: Angstrom.
Radial = tuple[Tensor, Tensor]
#: Most sensitivities of which a program holds the derivatives by the environments of two atoms.
MOST_FORCES = 8
_LANES = 128


@dataclass(frozen=True)
class Layout:
    """Frames laid end to end, with room for more atoms; tensors that :meth:`Pairs.lay_out` fills.

    Atoms that no frame owns have the number of the frames as theirs.
    """

    chosen: Tensor
    """(n_frames,) int64."""
    first: Tensor
    """Atoms of frame k are ``first[k]:first[k + 1]``, (n_frames + 1,) int64."""
    frame: Tensor
    """Place of each atom's frame among the chosen ones, (n_atoms,) int32."""
    species: Tensor
    """Species channel of each atom, (n_atoms,) int32."""
    move: Tensor
    """Number of each atom in the table less that in the layout, (n_atoms,) int32."""
    begin: Tensor
    """Where the pairs of each atom begin in the table, (n_atoms,) int64."""
    end: Tensor
    """Where they end."""

    @classmethod
    def of(cls, n_frames: int, n_atoms: int, device: torch.device) -> "Layout":
        """Memory for a number of frames and atoms."""

        def zeros(n: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(n, dtype=dtype, device=device)

        return cls(
            zeros(n_frames, torch.int64),
            zeros(n_frames + 1, torch.int64),
            *(zeros(n_atoms, torch.int32) for _ in range(3)),
            *(zeros(n_atoms, torch.int64) for _ in range(2)),
        )


@triton.jit(do_not_specialize=["n_frames", "n_atoms"])
def _lay_out(
    chosen, first, atoms, row, channels, frame, species, move, begin, end, n_frames, n_atoms,
    LANES: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = i < n_atoms
    f = tl.zeros((LANES,), tl.int32)
    for k in range(1, n_frames + 1):
        f += (i >= tl.load(first + k)).to(tl.int32)
    real = inside & (f < n_frames)
    start = tl.load(atoms + tl.load(chosen + f, mask=real, other=0), mask=real, other=0)
    number = i + start - tl.load(first + f, mask=real, other=0)
    tl.store(frame + i, f, mask=inside)
    tl.store(move + i, tl.where(real, number - i, 0).to(tl.int32), mask=inside)
    tl.store(species + i, tl.load(channels + number, mask=real, other=0), mask=inside)
    tl.store(begin + i, tl.load(row + number, mask=real, other=0), mask=inside)
    tl.store(end + i, tl.load(row + number + 1, mask=real, other=0), mask=inside)


class Pairs:
    """Pairs of all frames of a part of the data, on a device.

    Parameters
    ----------
    frames
        One batch for each frame, on the CPU.
    species
        Species channel of each atom of all frames, (n_atoms,).
    n_species
        Number of channels.
    cutoff
        Of the model, Angstrom.
    device
        Where they are kept.

    Attributes
    ----------
    n_atoms
        Of each frame, (n_frames,), on the host.
    """

    def __init__(
        self,
        frames: Sequence[Batch],
        species: Tensor,
        n_species: int,
        cutoff: float,
        device: torch.device,
    ) -> None:
        self.n_atoms = np.array([frame.n_atoms for frame in frames])
        atoms = np.cumsum([0, *self.n_atoms])
        pairs = np.cumsum([0] + [len(frame.second) for frame in frames])
        rows = [frame.row[1:] + int(n) for frame, n in zip(frames, pairs, strict=False)]
        second = [frame.second.int() + int(n) for frame, n in zip(frames, atoms, strict=False)]
        self.device, self.n_species, self.cutoff = device, n_species, float(cutoff)
        self.atoms = torch.as_tensor(atoms, device=device)
        self.row = torch.cat([torch.zeros(1, dtype=torch.int64), *rows]).to(device)
        self.second = torch.cat(second).to(device)
        self.vectors = torch.cat([frame.vectors for frame in frames]).to(device)
        self.species = species.int().to(device)

    def plan(self, chosen: np.ndarray) -> Tensor:
        """What a device must be told of a choice of frames, (2 n_frames + 1,), on the host."""
        first = np.cumsum([0, *self.n_atoms[chosen]])
        return torch.from_numpy(np.concatenate([chosen, first]))

    def lay_out(self, plan: Tensor, where: Layout) -> None:
        """Fill a layout by a :meth:`plan`, which is on the device."""
        n_frames, n_atoms = len(where.chosen), len(where.frame)
        torch._foreach_copy_([where.chosen, where.first], [plan[:n_frames], plan[n_frames:]])
        _lay_out[(triton.cdiv(n_atoms, _LANES),)](
            where.chosen, where.first, self.atoms, self.row, self.species, where.frame,
            where.species, where.move, where.begin, where.end, n_frames, n_atoms, LANES=_LANES,
        )  # fmt: skip


class DevicePasses:
    """The passes over pairs of a training step, as :class:`kdlib.hipnn.kernels.passes.Passes`."""

    #: What is between the matrix products.
    layers = trainlayers

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs

    def environments(self, where: Layout, radial: Radial, env: Tensor) -> None:
        """Fill ``env``."""
        grid, shape = by_block(env, MOST_SUMS)
        kernels.environment[grid](*self._of(where), *radial, env, **self._shape(shape))

    def forces(
        self, where: Layout, radial: Radial, g: Tensor, strained: bool, out: Tensor
    ) -> Tensor:
        """Forces for g = dE/d(environment) into ``out``; returns the virials, zero or as asked."""
        n_sensitivities = g.shape[3]
        block = block_of(n_sensitivities, MOST_FORCES)
        virial = out.new_zeros(len(where.chosen), 3, 3)
        of_atoms = out.new_empty(len(g), 9) if strained else out
        whole = block % 4 == 0 and g.dtype == torch.float32
        m, sigma = radial
        kernels.forces[(len(g),)](
            *self._of(where), where.move, m, sigma * SCALE, sigma.square(), g, out, of_atoms,
            VECTOR=whole and not INTERPRETED, STRAINED=strained,
            **self._shape({"K": n_sensitivities, "S": g.shape[2], "BLOCK": block}),
        )  # fmt: skip
        if strained:
            _add_by_frame[(len(virial),)](of_atoms, where.first, virial, LANES=_LANES)
        return virial

    def tangents(
        self,
        where: Layout,
        radial: Radial,
        g: Tensor,
        by_force: Tensor,
        strained: bool,  # noqa: ARG002 - a loss of stresses is not differentiated here
        by_virial: None,  # noqa: ARG002
        out: Tensor,
    ) -> Tensor:
        """Change of the environments along the derivatives of the loss, into ``out``.

        Returns what :meth:`parameter_gradient` takes as ``of_changes``.
        """
        grid, shape = by_block(g, MOST_GRADIENTS)
        partial = partial_gradients(g)
        kernels.slope_gradient[grid](
            *self._of(where), *radial, g, by_force, where.move, out, partial,
            OF_FORCES=True, **self._shape(shape),
        )  # fmt: skip
        return partial

    def parameter_gradient(
        self, where: Layout, radial: Radial, weight: Tensor, of_changes: Tensor
    ) -> Tensor:
        """Gradients by m and sigma of ``weight`` times the environments, and of the changes."""
        grid, shape = by_block(weight, MOST_SUMS)
        partial = partial_gradients(weight)
        kernels.parameter_gradient[grid](
            *self._of(where), *radial, weight, partial, **self._shape(shape)
        )
        return partial.add_(of_changes).sum((0, 1))

    def _of(self, where: Layout) -> tuple[Tensor, ...]:
        pairs = self._pairs
        return pairs.vectors, where.begin, where.end, pairs.second, pairs.species

    def _shape(self, shape: dict[str, int]) -> dict[str, int | float]:
        return {"CUTOFF": self._pairs.cutoff, **shape, **lanes()}


@triton.jit
def _add_by_frame(of_atoms, first, out, LANES: tl.constexpr):
    """Sums of (n_atoms, 9) over the atoms of each frame."""
    f = tl.program_id(0)
    stop = tl.load(first + f + 1)
    for c in tl.static_range(9):
        total = tl.zeros((LANES,), tl.float64)
        for start in range(tl.load(first + f), stop, LANES):
            i = start + tl.arange(0, LANES)
            total += tl.load(of_atoms + 9 * i + c, mask=i < stop, other=0.0)
        tl.store(out + 9 * f + c, tl.sum(total))
