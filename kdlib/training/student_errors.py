"""Errors of a student against its teacher, for solid and melt apart."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from kdlib.training import accuracy
from kdlib.hipnn import Potential

#: What a frame is.
PHASES = ("solid", "molten")
#: Kinds of frames that errors are given for.
STATES = ("all", *PHASES)
#: Those of :func:`kdlib.training.accuracy.summary` that a distillation looks at.
ERRORS = ("force_rmse", "energy_rmse", "stress_rmse")


def against_teacher(potential: Potential, frames: Sequence[Atoms]) -> dict[str, dict[str, float]]:
    """Pooled errors on labelled frames.

    Parameters
    ----------
    potential
        Student, of the same energies as the frames.
    frames
        Labelled frames; ``info["molten"]`` says which are melts.

    Returns
    -------
    dict
        State -> ``force_rmse`` eV/Angstrom, ``force_rms`` of the teacher, ``energy_rmse``
        eV/atom, ``stress_rmse`` eV/Angstrom^3, ``n_frames``. NaN where there is no frame.
    """
    molten = [atoms for atoms in frames if atoms.info.get("molten", False)]
    solid = [atoms for atoms in frames if not atoms.info.get("molten", False)]
    chosen = zip(STATES, (frames, solid, molten), strict=True)
    return {state: errors_of(potential, some) for state, some in chosen}


def errors_of(potential: Potential, frames: Sequence[Atoms]) -> dict[str, float]:
    """Pooled errors of one kind of frames, as :func:`against_teacher` gives them for each."""
    if not frames:
        return dict.fromkeys(("force_rms", *ERRORS), np.nan) | {"n_frames": 0}
    found = accuracy.summary(accuracy.residuals(potential, frames))
    forces = np.concatenate([atoms.calc.results["forces"] for atoms in frames])
    errors = {name: found[name] for name in ERRORS}
    return errors | {"force_rms": accuracy.rmse(forces), "n_frames": len(frames)}
