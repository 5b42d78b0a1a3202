"""Errors of a student against its teacher, for solid and melt apart."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from kdlib.hipnn import Potential
from kdlib.metrics import rmse

#: Kinds of frames that errors are given for.
STATES = ("all", "solid", "molten")


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
    periodic = all(atoms.pbc.all() for atoms in frames)
    stressed = periodic and all("stress" in atoms.calc.results for atoms in frames)
    ds = potential.predict(frames, stress=stressed) if frames else None
    molten = np.array([bool(atoms.info.get("molten", False)) for atoms in frames], dtype=bool)
    chosen = {"all": np.ones(len(frames), dtype=bool), "solid": ~molten, "molten": molten}
    return {state: _errors(ds, frames, chosen[state], stressed) for state in STATES}


def _errors(ds: object, frames: Sequence[Atoms], chosen: np.ndarray, stressed: bool) -> dict:
    picked = np.flatnonzero(chosen)
    names = ("force_rmse", "force_rms", "energy_rmse", "stress_rmse")
    if not len(picked):
        return dict.fromkeys(names, np.nan) | {"n_frames": 0}
    index = ds.frame_index.values
    forces = [frames[k].calc.results["forces"] for k in picked]
    errors = [ds.forces.values[index == k] - f for k, f in zip(picked, forces, strict=True)]
    energy = [
        (float(ds.energy[k]) - frames[k].calc.results["energy"]) / len(frames[k]) for k in picked
    ]
    stress = np.nan
    if stressed:
        tensors = ds.stress.values[picked]
        voigt = tensors[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        stress = rmse(voigt - [frames[k].calc.results["stress"] for k in picked])
    return {
        "force_rmse": rmse(np.concatenate(errors)),
        "force_rms": rmse(np.concatenate(forces)),
        "energy_rmse": rmse(np.array(energy)),
        "stress_rmse": stress,
        "n_frames": len(picked),
    }
