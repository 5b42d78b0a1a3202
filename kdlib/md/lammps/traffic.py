r"""What the ranks of LAMMPS exchange in a step of MD, on paper: ghosts, messages and bytes.

In weak scaling, where every rank keeps its number of atoms, this does not grow with the number of
ranks. A rank owns a cube of side L and sees the atoms within the reach R, cutoff and skin, around
it: :math:`\rho [(L + 2R)^3 - L^3]` ghosts. In each round, numbers for all ghosts pass the six
faces of the cube, once for each layer of cubes within reach. Every potential needs two rounds,
positions to the ghosts and forces back; those of :data:`ROUNDS` beyond are its own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

#: Pair style -> numbers per ghost in each round. An atom's environment in HIP-NN needs positions
#: alone; with embedded atoms, densities go back to the owners and derivatives out again.
ROUNDS = {"eam/alloy": (3, 1, 1, 3), "hipnn": (3, 3)}
_BYTES = 8


@dataclass(frozen=True)
class Traffic:
    """Exchange of one rank in one step without a new neighbor list."""

    ghosts: float
    """Atoms of other ranks (or periodic images) that it sees."""
    messages: int
    """Messages that it sends."""
    kilobytes: float
    """Size of all of them, kB."""


def traffic(style: str, n_atoms: float, density: float, reach: float) -> Traffic:
    """Exchange of a rank with ``n_atoms`` at a number density.

    Parameters
    ----------
    style
        Key of :data:`ROUNDS`.
    n_atoms
        Atoms that the rank owns.
    density
        In 1/Angstrom^3.
    reach
        Cutoff and skin, Angstrom.
    """
    side = (n_atoms / density) ** (1 / 3)
    ghosts = density * ((side + 2 * reach) ** 3 - side**3)
    rounds = ROUNDS[style]
    messages = 6 * math.ceil(reach / side) * len(rounds)
    return Traffic(ghosts, messages, ghosts * sum(rounds) * _BYTES / 1e3)


def table(reaches: Mapping[str, float], sizes: tuple[int, ...], density: float) -> str:
    """Return the exchange of some pair styles at some numbers of atoms per rank, as text.

    ``reaches`` gives the reach of each style, Angstrom.
    """
    columns = "".join(f"{name:>12}" for name in ("ghosts", "messages", "kB sent"))
    lines = [f"{'atoms per rank':<16}{'pair style':<12}{'reach (A)':>10}{columns}"]
    for n in sizes:
        for style, reach in reaches.items():
            one = traffic(style, n, density, reach)
            cells = f"{one.ghosts:12.0f}{one.messages:12d}{one.kilobytes:12.0f}"
            lines.append(f"{n:<16}{style:<12}{reach:10.1f}{cells}")
    return "\n".join(lines)
