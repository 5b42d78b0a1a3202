"""Neighbors on a device: a box, atoms sorted into bins, and a table that holds for a while.

Atoms are kept in the order of their bins, so that neighbors in space are neighbors in memory. The
table has one column an atom and is read along its rows, by as many lanes as there are atoms.
"""

from dataclasses import dataclass

import numpy as np
import torch
import triton
from torch import Tensor

from kdlib.errors import InputError
from kdlib.hipnn.device import motion, sums
from kdlib.hipnn.device.pairs import INTERPRETED

#: Atoms that one program works on: those of one warp, or many where each operation is a call.
ATOMS = 1024 if INTERPRETED else 32
#: Warps of a program.
WARPS = 1
#: Room of the table beyond the longest list of neighbors.
ROOM = 1.06
#: Neighbors an atom has room for in a first table.
FIRST_ROOM = 128
#: Columns of the table are a multiple of this, for aligned loads.
_ALIGNED = 32


@dataclass(frozen=True)
class Box:
    """The cell that a device computes in: periodic, and wide enough for minimum images.

    Attributes
    ----------
    cell
        Cell vectors as rows, (3, 3), Angstrom.
    repeats
        How often the cell of the configuration is repeated along each vector.
    cutoff, reach
        Range of the potential and of the neighbor table, Angstrom.
    """

    cell: np.ndarray
    repeats: tuple[int, int, int]
    cutoff: float
    reach: float

    @classmethod
    def around(
        cls, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float, reach: float
    ) -> "Box":
        """Box of a configuration, periodic in all directions or in none."""
        if not np.any(pbc):
            extent = np.ptp(positions, axis=0)
            return cls(np.diag(extent + 2.5 * reach), (1, 1, 1), cutoff, reach)
        repeats = np.ceil(2 * reach / _widths(cell)).astype(int)
        repeats = tuple(int(n) for n in np.maximum(repeats, 1))
        return cls(cell * np.reshape(repeats, (3, 1)), repeats, cutoff, reach)

    @property
    def images(self) -> np.ndarray:
        """Translations of the repeated cells, the configuration's own first, (n, 3), Angstrom."""
        small = self.cell / np.reshape(self.repeats, (3, 1))
        return np.stack(np.meshgrid(*map(np.arange, self.repeats), indexing="ij"), -1).reshape(
            -1, 3
        ) @ small  # fmt: skip

    @property
    def bins(self) -> tuple[int, int, int]:
        """Bins along each cell vector, none narrower than the reach."""
        return tuple(int(n) for n in np.maximum(_widths(self.cell) // self.reach, 1))

    def tensor(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """What the kernels read of it, (12,)."""
        bits = 32 if dtype == torch.float32 else 64
        numbers = [*(self.cell.flatten() * 2.0**-bits), self.cutoff, 1 / self.cutoff, self.reach**2]
        return torch.tensor(numbers, dtype=dtype, device=device)

    def inverse(self, device: torch.device) -> Tensor:
        """Inverse of the cell, (3, 3) float64, 1/Angstrom."""
        return torch.tensor(np.linalg.inv(self.cell), dtype=torch.float64, device=device)


def _widths(cell: np.ndarray) -> np.ndarray:
    """Distances between opposite faces of a cell, Angstrom."""
    return 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)


class Cells:
    """Places and neighbors of the atoms of one box, in the order of their bins.

    Parameters
    ----------
    box
        Where the atoms are.
    n
        Number of atoms, repeated ones included.
    dtype
        Of the model: float32 or float64.
    device
        Where everything lives.

    Attributes
    ----------
    q, q_built
        Places now and when the table was built, (n, 4) integers.
    table, counts
        Neighbors down the columns, (capacity, stride) int32, and their numbers, (n,) int32.
    """

    def __init__(self, box: Box, n: int, dtype: torch.dtype, device: torch.device) -> None:
        if n >= 2**31:
            raise InputError(f"{n} atoms are more than a device's kernels can count")
        self.n, self.dtype, self.device = n, dtype, device
        places = torch.int32 if dtype == torch.float32 else torch.int64
        self.q = torch.zeros(n, 4, dtype=places, device=device)
        self.q_built = torch.empty_like(self.q)
        self.counts = torch.zeros(n, dtype=torch.int32, device=device)
        self.stride = -(-n // _ALIGNED) * _ALIGNED
        self.table = torch.empty(0, self.stride, dtype=torch.int32, device=device)
        self.box_tensor = box.tensor(dtype, device)
        self.inverse = box.inverse(device)
        self.box = box

    def set_box(self, box: Box) -> None:
        """Change the box, in place, so that a captured graph sees it; the table is void then."""
        self.box = box
        self.box_tensor.copy_(box.tensor(self.dtype, self.device))
        self.inverse.copy_(box.inverse(self.device))

    def grid(self) -> tuple[int]:
        """Programs over all atoms."""
        return (triton.cdiv(self.n, ATOMS),)

    def order(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Order of atoms by bins, and the bin of each atom in that order, int32."""
        nx, ny, nz = self.box.bins
        fractions = positions @ self.inverse
        fractions -= fractions.floor()
        size = fractions.new_tensor([nx, ny, nz])
        x = (fractions * size).to(torch.int32).clamp(min=0)
        x, y, z = x.minimum(size.int() - 1).unbind(1)
        bins, order = torch.sort((x * ny + y) * nz + z, stable=True)
        return order, bins

    def place(self, positions: Tensor) -> None:
        """Set the places from positions, (n, 3) float64, in the order of the table."""
        motion.place[self.grid()](
            positions, self.inverse, self.q, self.n, ATOMS=ATOMS, num_warps=WARPS
        )

    def build(self, positions: Tensor, bins: Tensor) -> bool:
        """Fill the table for sorted positions; True when it had to become longer.

        A longer table is another piece of memory: what was captured with the old one is void.
        """
        self.place(positions)
        self.q_built.copy_(self.q)
        nx, ny, nz = self.box.bins
        starts = torch.searchsorted(
            bins, torch.arange(nx * ny * nz + 1, dtype=bins.dtype, device=self.device)
        ).int()
        longer = not len(self.table)
        if longer:
            self._lengthen(FIRST_ROOM)
        while (most := self._list(bins, starts)) > len(self.table):
            self._lengthen(int(most * ROOM) + 1)
            longer = True
        return longer

    def _lengthen(self, room: int) -> None:
        self.table = self.table.new_empty(0)  # give the memory back first
        self.table = torch.empty(room, self.stride, dtype=torch.int32, device=self.device)

    def _list(self, bins: Tensor, starts: Tensor) -> int:
        """Run the kernel; the most neighbors that any atom has."""
        nx, ny, nz = self.box.bins
        looked = [min(size, 3) for size in (nx, ny, nz)]
        sums.list_neighbors[self.grid()](
            self.q, bins, starts, self.box_tensor, self.table, self.counts,
            self.n, self.stride, len(self.table), nx, ny, nz,
            *looked, ATOMS=ATOMS, num_warps=WARPS,
        )  # fmt: skip
        return int(self.counts.max())

    def nearest(self) -> tuple[int, float]:
        """Atom, in the table's order, with the nearest neighbor; its distance, Angstrom, or inf."""
        squares = torch.empty(self.n, dtype=self.dtype, device=self.device)
        sums.nearest[self.grid()](
            self.q, self.box_tensor, self.table, self.counts, squares, self.n, self.stride,
            ATOMS=ATOMS, num_warps=WARPS,
        )  # fmt: skip
        atom = int(squares.argmin())
        return atom, float(squares[atom]) ** 0.5
