"""Where the sensitivity functions of a model begin, for data that come closer than aluminium."""

from collections.abc import Sequence

from ase import Atoms

from kdlib.datasets import species
from kdlib.geometry.pairs import closest_pair
from kdlib.hipnn import HipnnConfig

#: First centre over the distance of the closest pair.
MARGIN = 0.9


def soft_min(frames: Sequence[Atoms]) -> float:
    """Centre of the first sensitivity function, Angstrom.

    It is the paper's, 1.5 Angstrom, for aluminium and for whatever keeps that distance. Where atoms
    come closer, as in molecules, it lies below their closest pair, or a model would hardly see it.

    Parameters
    ----------
    frames
        Data that a model is to learn from.
    """
    usual = HipnnConfig.soft_min
    if species(frames) == HipnnConfig.species:
        return usual
    closest = min(closest_pair(atoms).distance for atoms in frames)
    return usual if closest > usual else round(MARGIN * closest, 3)
