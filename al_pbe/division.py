"""Parts that al-pbe prescribes, so that validation and test ask for interpolation.

==================================  ===========================================================
frames                              part
==================================  ===========================================================
beyond :data:`EXTREMES`             train
actively learned (6000 and above)   train: models selected them, so they are no fair test
large cells (5000 to 5999)          transfer
other compressed ones (4000-4999)   compressed; of those before :data:`MORE_COMPRESSED`, the
                                    share that the hash draws for training stays there
others from :data:`HELD_OUT` on     valid and test, by the hash
others                              none: the split draws
==================================  ===========================================================
"""

from ase import Atoms

from al_pbe.sampling import ACTIVE, COMPRESSED, LARGE
from kdlib.datasets import Extremes
from kdlib.datasets.splits import draw

#: Bounds of the frames that validation and test may hold.
EXTREMES = Extremes(closest_pair=1.95, density=(2.02, 4.2))
#: First of the frames labeled for validation and test, and first of the compressed ones.
HELD_OUT, MORE_COMPRESSED = 348, 4036
#: Share of the former that goes to validation.
VALIDATION = 0.3
#: Share of the first compressed frames that trains.
TRAINING = 0.8


def part_of(atoms: Atoms) -> str | None:
    """Part of a frame of al-pbe; None where the split draws it."""
    k = int(atoms.info["frame"])
    if k >= ACTIVE:
        return "train"
    if k >= LARGE:
        return "transfer"
    if EXTREMES.hold(atoms):
        return "train"
    if k >= COMPRESSED:
        return "train" if k < MORE_COMPRESSED and draw(atoms) < TRAINING else "compressed"
    if k >= HELD_OUT:
        return "valid" if draw(atoms) < VALIDATION else "test"
    return None
