"""Errors of a model, pooled over a whole part of the data.

An RMSE is the root of summed squares over the count, never a mean of batch RMSEs. Energies are per
atom, forces per component, stresses per component of the (3, 3) tensor.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from ase import Atoms
from torch import Tensor

from kdlib.hipnn.batches import Batch
from kdlib.hipnn.batches import reference_stress
from kdlib.datasets import PARTS
from kdlib.datasets import Split
from kdlib.datasets import frame_numbers
from kdlib.hipnn import HipnnModule
from kdlib.hipnn import Potential
from kdlib.hipnn import Prediction

#: What a model is trained on.
TARGETS = ("energy", "force", "atomic_energy", "stress")
#: Share of the largest force errors left out of the trimmed RMSE, which a few frames cannot drive.
TRIMMED = 1e-3


class PooledErrors:
    """Errors of many batches, summed up when somebody asks."""

    def __init__(self) -> None:
        self._parts = [np.empty(0)]

    def add(self, errors: np.ndarray) -> None:
        """Add the errors of a batch, of any shape."""
        self._parts.append(np.ravel(errors))

    @property
    def rmse(self) -> float:
        """Root-mean-square of everything added."""
        return rmse(np.concatenate(self._parts, dtype=float))

    @property
    def mae(self) -> float:
        """Mean absolute value of everything added."""
        return mae(np.concatenate(self._parts, dtype=float))


class TargetErrors:
    """Pooled errors of the targets that batches hold."""

    def __init__(self) -> None:
        self.pooled = {name: PooledErrors() for name in (*TARGETS, "cell_energy")}

    @classmethod
    def of(cls, module: HipnnModule, parts: Iterable[Batch]) -> "TargetErrors":
        """Errors of a model; stresses are computed for batches that hold any."""
        errors = cls()
        for batch in parts:
            errors.add(module(batch, stress=bool(batch.has_stress.any())), batch)
        return errors

    def add(self, prediction: Prediction, batch: Batch) -> None:
        """Add what a model says of a batch against what the batch holds."""

        def add(name: str, difference: Tensor) -> None:
            self.pooled[name].add(difference.detach().cpu().numpy())

        cell = prediction.energy - batch.energy
        add("cell_energy", cell)
        add("energy", cell / torch.bincount(batch.frame, minlength=batch.n_frames))
        add("force", prediction.forces - batch.forces)
        if batch.atomic_energies is not None:
            add("atomic_energy", prediction.atomic_energies - batch.atomic_energies)
        if prediction.virial is not None:
            add("stress", batch.stress_errors(prediction.virial))

    def row(self, part: str) -> dict[str, float]:
        """RMSE and MAE of every target, named ``<target>_<measure>_<part>``."""
        return {
            f"{name}_{measure}_{part}": getattr(errors, measure)
            for name, errors in self.pooled.items()
            for measure in ("rmse", "mae")
        }


def rmse(errors: np.ndarray) -> float:
    """Root-mean-square error."""
    return float(np.sqrt(np.mean(np.square(errors)))) if np.size(errors) else np.nan


def mae(errors: np.ndarray) -> float:
    """Mean absolute error."""
    return float(np.mean(np.abs(errors))) if np.size(errors) else np.nan


def trimmed_rmse(errors: np.ndarray, trimmed: float = TRIMMED) -> float:
    """RMSE without the largest share ``trimmed`` of the errors."""
    size = np.sort(np.abs(np.ravel(errors)))
    return rmse(size[: max(1, int(np.ceil(len(size) * (1 - trimmed))))])


def residuals(
    potential: Potential,
    frames: Sequence[Atoms],
    atomic_energies: Sequence[np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Model minus reference.

    Parameters
    ----------
    potential
        Model.
    frames
        Frames with energies and forces.
    atomic_energies
        A teacher's labels, one (n_atoms,) array per frame, eV.

    Returns
    -------
    dict
        ``energy`` (n_frames,) eV/atom, ``cell_energy`` (n_frames,) eV, ``force`` (n_atoms, 3)
        eV/Angstrom, ``atomic_energy`` (n_atoms,) eV where labels are given, ``stress``
        (frames with a stress, 3, 3) eV/Angstrom^3 where there is one, and ``frame`` (n_atoms,).
    """
    stress = np.reshape([reference_stress(atoms) for atoms in frames], (-1, 3, 3))
    stressed = np.isfinite(stress).all(axis=(1, 2))
    ds = potential.predict(frames, stress=bool(stressed.any()))
    cell = ds.energy.values - [atoms.calc.results["energy"] for atoms in frames]
    found = {
        "cell_energy": cell,
        "energy": cell / [len(atoms) for atoms in frames],
        "force": ds.forces.values - np.concatenate([a.calc.results["forces"] for a in frames]),
        "frame": ds.frame_index.values,
    }
    if atomic_energies is not None:
        found["atomic_energy"] = ds.atomic_energies.values - np.concatenate(atomic_energies)
    if stressed.any():
        found["stress"] = ds.stress.values[stressed] - stress[stressed]
    return found


def summary(errors: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Pooled errors of :func:`residuals` under the names of the result files."""
    labels, stress = (errors.get(name, np.empty(0)) for name in ("atomic_energy", "stress"))
    return {
        "energy_rmse": rmse(errors["energy"]),
        "energy_mae": mae(errors["energy"]),
        "cell_energy_rmse": rmse(errors["cell_energy"]),
        "force_rmse": rmse(errors["force"]),
        "force_mae": mae(errors["force"]),
        "force_rmse_trimmed": trimmed_rmse(errors["force"]),
        "atomic_energy_rmse": rmse(labels),
        "atomic_energy_mae": mae(labels),
        "stress_rmse": rmse(stress),
        "stress_mae": mae(stress),
    }


def evaluate(
    potential: Potential,
    frames: Sequence[Atoms],
    split: Split,
    atomic_energies: Sequence[np.ndarray] | None = None,
    parts: Iterable[str] = PARTS,
) -> xr.Dataset:
    """Errors of one model on every part, and of each test frame for the bootstrap over frames.

    Parameters
    ----------
    potential
        Model.
    frames, split
        Data and their frozen division.
    atomic_energies
        Labels of the model's own teacher for all ``frames``, one (n_atoms,) array per frame, eV.
    parts
        Which parts to evaluate.

    Returns
    -------
    xr.Dataset
        The accuracy variables of the result schema over ``split`` and ``frame``.
    """
    columns, test = [], {}
    for part in parts:
        chosen = getattr(split, part)
        if not len(chosen):
            columns.append({})
            continue
        labels = None if atomic_energies is None else [atomic_energies[k] for k in chosen]
        errors = residuals(potential, [frames[k] for k in chosen], labels)
        columns.append(summary(errors))
        if part == "test":
            test = errors
    names = max(columns, key=len)
    ds = xr.Dataset(
        {n: ("split", [column.get(n, np.nan) for column in columns]) for n in names},
        coords={"split": list(parts)},
    )
    squares = (test["force"] ** 2).mean(1)
    counts = np.bincount(test["frame"])
    ds["frame_force_mse"] = ("frame", np.bincount(test["frame"], squares) / counts)
    ds["frame_energy_error"] = ("frame", test["energy"])
    return ds.assign_coords(frame=frame_numbers(frames)[split.test])
