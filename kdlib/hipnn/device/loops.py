"""The sums over pairs of a batch on a device: :mod:`kdlib.hipnn.kernels.loops`, run by Triton.

Same names, same arguments (tensors instead of arrays), same results.
"""

import torch
from torch import Tensor

from kdlib.hipnn.device import gradients as kernels
from kdlib.hipnn.device.pairs import INTERPRETED

#: Pairs that the lanes of a program take up at a time.
PAIRS = 256 if INTERPRETED else 32
#: Most sensitivities whose sums, or sums and gradients, a program holds in registers.
MOST_SUMS, MOST_GRADIENTS = 10, 5


def environment(
    vectors: Tensor, row: Tensor, second: Tensor, species: Tensor, cutoff: float,
    m: Tensor, sigma: Tensor, out: Tensor,
) -> None:  # fmt: skip
    """Fill ``out`` with the environment of every atom."""
    grid, shape = by_block(out, MOST_SUMS)
    kernels.environment[grid](
        vectors, row, row[1:], second, species, m, sigma, out, CUTOFF=cutoff, **shape, **lanes()
    )


def parameter_gradient(
    vectors: Tensor, row: Tensor, second: Tensor, species: Tensor, cutoff: float,
    m: Tensor, sigma: Tensor, weight: Tensor,
) -> Tensor:  # fmt: skip
    """Gradients by m and sigma of the sum of ``weight`` times the environment, (2, K)."""
    grid, shape = by_block(weight, MOST_SUMS)
    partial = partial_gradients(weight)
    kernels.parameter_gradient[grid](
        vectors, row, row[1:], second, species, m, sigma, weight, partial,
        CUTOFF=cutoff, **shape, **lanes(),
    )  # fmt: skip
    return partial.sum((0, 1))


def slopes(
    vectors: Tensor, row: Tensor, second: Tensor, species: Tensor, cutoff: float,
    m: Tensor, sigma: Tensor, g: Tensor, out: Tensor,
) -> None:  # fmt: skip
    """Fill ``out`` (n_pairs, 3) with dE/dr of each pair, for g = dE/d(environment)."""
    kernels.slopes[(len(g),)](
        vectors, row, row[1:], second, species, m, sigma, g, out,
        CUTOFF=cutoff, K=g.shape[3], S=g.shape[2], **lanes(),
    )  # fmt: skip


def slope_gradient(
    vectors: Tensor, row: Tensor, second: Tensor, species: Tensor, cutoff: float,
    m: Tensor, sigma: Tensor, g: Tensor, direction: Tensor, out: Tensor,
) -> Tensor:  # fmt: skip
    """Gradients of sum_p direction_p . slope_p: by g into ``out``; by m and sigma returned."""
    grid, shape = by_block(g, MOST_GRADIENTS)
    partial = partial_gradients(g)
    kernels.slope_gradient[grid](
        vectors, row, row[1:], second, species, m, sigma, g, direction, row, out, partial,
        CUTOFF=cutoff, OF_FORCES=False, **shape, **lanes(),
    )  # fmt: skip
    return partial.sum((0, 1))


def curvatures(
    vectors: Tensor, row: Tensor, second: Tensor, species: Tensor, cutoff: float,
    m: Tensor, sigma: Tensor, g: Tensor, direction: Tensor, out: Tensor,
) -> None:  # fmt: skip
    """Fill ``out`` (n_pairs, 3) with the Hessian of each pair's energy times ``direction``."""
    kernels.curvatures[(len(g),)](
        vectors, row, row[1:], second, species, m, sigma, g, direction, out,
        CUTOFF=cutoff, K=g.shape[3], S=g.shape[2], **lanes(),
    )  # fmt: skip


def incoming(second: Tensor, n_atoms: int) -> tuple[Tensor, Tensor]:
    """Pairs sorted by their second atom, and where those of each atom start."""
    atoms, order = torch.sort(second.int(), stable=True)
    ends = torch.arange(n_atoms + 1, dtype=torch.int32, device=second.device)
    return order, torch.searchsorted(atoms, ends)


def gather_forces(slope: Tensor, row: Tensor, order: Tensor, into: Tensor) -> Tensor:
    """Sum of the slopes of pairs that start at an atom minus those that end there, (n_atoms, 3)."""
    out = slope.new_empty(len(row) - 1, 3)
    kernels.gather_forces[(len(out),)](slope, row, order, into, out, **lanes())
    return out


def spread_forces(forces: Tensor, row: Tensor, second: Tensor) -> Tensor:
    """Adjoint of `gather_forces`: force on the first atom of each pair minus that on the second."""
    out = forces.new_empty(len(second), 3)
    kernels.spread_forces[(len(forces),)](forces, row, row[1:], second, out, **lanes())
    return out


def block_of(n_sensitivities: int, most: int) -> int:
    """How many sensitivities a program works on: an equal part of them, ``most`` at most.

    A multiple of four where there is one, for loads of four numbers at a time.
    """
    sizes = [n for n in range(1, min(n_sensitivities, most) + 1) if n_sensitivities % n == 0]
    return max([n for n in sizes if n % 4 == 0] or sizes)


def by_block(environment: Tensor, most: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and sizes of a kernel whose programs hold sums of a block of sensitivities."""
    n_atoms, _, n_species, n_sensitivities = environment.shape
    block = block_of(n_sensitivities, most)
    grid = n_atoms, n_species * n_sensitivities // block
    return grid, {"K": n_sensitivities, "S": n_species, "BLOCK": block}


def partial_gradients(environment: Tensor) -> Tensor:
    """Memory for the gradients by m and sigma of each atom."""
    n_atoms, _, n_species, n_sensitivities = environment.shape
    return environment.new_empty(n_atoms, n_species, 2, n_sensitivities)


def lanes() -> dict[str, int]:
    """Sizes of a program."""
    return {"PAIRS": PAIRS, "num_warps": 1}
