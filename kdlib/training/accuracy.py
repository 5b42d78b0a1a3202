"""Errors of a model, pooled over a whole part of the data.

An RMSE is the root of summed squares over the count, never a mean of batch RMSEs. Energies are per
atom, forces per component, stresses per component of the (3, 3) tensor.

Errors of a student against its teacher, for solid and melt apart.

Predicted against reference values on the test part, and a teacher's atomic energies in place.

Student against teacher, value by value, on frames that nothing learnt from.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from ase import Atoms
from torch import Tensor

from kdlib.datasets import PARTS, Split, frame_numbers, species
from kdlib.datasets.summary import phase_of
from kdlib.geometry.neighbors import neighbor_pairs
from kdlib.hipnn import HipnnModule, Potential, Prediction
from kdlib.hipnn.batches import Batch, reference_stress

#: What a model is trained on.
TARGETS = ("energy", "force", "atomic_energy", "stress")
#: Share of the largest force errors left out of the trimmed RMSE, which a few frames cannot drive.
TRIMMED = 1e-3


class PooledErrors:
    """Errors of many batches, summed up when somebody asks."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray | Tensor] = [np.empty(0)]

    def add(self, errors: np.ndarray | Tensor) -> None:
        """Add the errors of a batch, of any shape; a device is not waited for."""
        self._parts.append(errors)

    def _all(self) -> np.ndarray:
        parts = [p.cpu().numpy() if isinstance(p, Tensor) else p for p in self._parts]
        self._parts = [np.concatenate([np.ravel(part) for part in parts], dtype=float)]
        return self._parts[0]

    @property
    def rmse(self) -> float:
        """Root-mean-square of everything added."""
        return rmse(self._all())

    @property
    def mae(self) -> float:
        """Mean absolute value of everything added."""
        return mae(self._all())


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
            self.pooled[name].add(difference.detach())

        cell = prediction.energy - batch.energy
        add("cell_energy", cell)
        sizes = torch.zeros_like(cell).index_add(
            0, batch.frame, torch.ones_like(batch.forces[:, 0])
        )
        add("energy", cell / sizes)  # not by bincount, which waits for a device
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
    found = summary(residuals(potential, frames))
    forces = np.concatenate([atoms.calc.results["forces"] for atoms in frames])
    errors = {name: found[name] for name in ERRORS}
    return errors | {"force_rms": rmse(forces), "n_frames": len(frames)}


#: First minimum of g(r) of liquid aluminium, Angstrom: neighbours closer than this are counted.
FIRST_SHELL = 3.9
#: The same for other materials, over the median distance of nearest neighbours: between the first
#: and the second shell of close packing (1 and 1.41), beyond both of bcc (1 and 1.15).
SHELL_RATIO = 1.35


def parity(
    potential: Potential,
    frames: Sequence[Atoms],
    split: Split,
    other: Potential | None = None,
    first_shell: float | None = None,
) -> xr.Dataset:
    """Compare a model with the reference on the test part.

    Parameters
    ----------
    potential
        Model.
    frames, split
        Data and their division; only the test part is looked at.
    other
        A model of another seed, to compare the atomic energies with.
    first_shell
        Radius that defines the coordination number, Angstrom; by default 3.9 for aluminium, and
        1.35 times the median distance of nearest neighbours for anything else.

    Returns
    -------
    xr.Dataset
        Result of kind ``parity``.
    """
    test = [frames[k] for k in split.test]
    sizes = [len(atoms) for atoms in test]
    radius = first_shell_of(test) if first_shell is None else first_shell
    ds = potential.predict(test)
    found = xr.Dataset(
        {
            "reference_energy": ("frame", [a.get_potential_energy() / len(a) for a in test]),
            "predicted_energy": ("frame", ds.energy.values / sizes),
            "frame_phase": ("frame", [phase_of(atoms) for atoms in test]),
            "reference_force": ("sample", np.concatenate([a.get_forces().ravel() for a in test])),
            "predicted_force": ("sample", ds.forces.values.ravel()),
            "atomic_energy": ("atom", ds.atomic_energies.values),
            "coordination": (
                "atom",
                np.concatenate([_coordination(atoms, radius) for atoms in test]),
            ),
            "atom_phase": ("atom", np.repeat([phase_of(atoms) for atoms in test], sizes)),
            "atom_frame": ("atom", ds.frame_index.values),
        },
        coords={"frame": frame_numbers(frames)[split.test]},
    )
    if other is not None:
        values = other.predict(test, forces=False).atomic_energies.values
        found["atomic_energy_other"] = ("atom", values)
    return found


def first_shell_of(frames: Sequence[Atoms]) -> float:
    """Radius of the first shell of neighbours, Angstrom."""
    if species(frames) == ("Al",):
        return FIRST_SHELL
    nearest = [_nearest(atoms) for atoms in frames]
    return float(SHELL_RATIO * np.median(np.concatenate(nearest)))


def _nearest(atoms: Atoms, reach: float = 4.0) -> np.ndarray:
    """Distance of each atom's nearest neighbour, of those that have one within reach, Angstrom."""
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    lengths = np.linalg.norm(pairs.vectors(atoms.positions, atoms.cell.array), axis=1)
    found = np.full(len(atoms), np.inf)
    np.minimum.at(found, pairs.first, lengths)
    return np.where(np.isfinite(found), found, reach)


def _coordination(atoms: Atoms, radius: float) -> np.ndarray:
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, radius)
    return np.diff(pairs.row)


#: Points of a student_parity plot at most.
MAX_POINTS = 4000
#: What is compared.
ENERGY = {"units": "eV/atom", "long_name": "energy per atom"}
FORCE = {"units": "eV/Angstrom", "long_name": "force component"}
ATOMIC = {"units": "eV", "long_name": "atomic energy, from the mean of its species"}


def student_parity(potential: Potential, fresh: Sequence[Atoms]) -> xr.Dataset:
    """Energies, forces and atomic energies of both.

    Parameters
    ----------
    potential
        Student, with the teacher's energies of atoms.
    fresh
        Labelled frames; ``info["molten"]`` says which are melts.

    Returns
    -------
    xarray.Dataset
        ``reference_*`` of the teacher and ``predicted_*`` of the student: ``energy(frame)``
        eV/atom, ``force(sample)`` eV/Angstrom and, where the teacher gives them, ``atomic(atom)``
        eV; ``frame_molten`` and ``sample_molten`` are 1 in a melt. Of forces and atomic energies at
        most :data:`MAX_POINTS`, drawn at random. Atomic energies are compared up to a constant for
        each species, which no force knows.
    """
    ds = potential.predict(fresh)
    sizes = np.array([len(atoms) for atoms in fresh])
    molten = np.array([float(atoms.info["molten"]) for atoms in fresh])
    energies = np.array([atoms.calc.results["energy"] for atoms in fresh])
    forces = np.concatenate([atoms.calc.results["forces"] for atoms in fresh])
    rng = np.random.default_rng(0)
    chosen = rng.permutation(forces.size)[:MAX_POINTS]
    found = xr.Dataset(
        _both("energy", "frame", energies / sizes, ds.energy.values / sizes, ENERGY)
        | _both("force", "sample", forces.ravel()[chosen], ds.forces.values.ravel()[chosen], FORCE)
        | _melts("frame", molten)
        | _melts("sample", np.repeat(molten, 3 * sizes)[chosen])
    )  # fmt: skip
    if all("energies" in atoms.calc.results for atoms in fresh):
        numbers = np.concatenate([atoms.numbers for atoms in fresh])
        labels = np.concatenate([atoms.calc.results["energies"] for atoms in fresh])
        chosen = rng.permutation(len(labels))[:MAX_POINTS]
        reference, predicted = (
            from_mean(values, numbers)[chosen] for values in (labels, ds.atomic_energies.values)
        )
        found = found.assign(_both("atomic", "atom", reference, predicted, ATOMIC))
    return found


def _both(
    name: str, dim: str, reference: np.ndarray, predicted: np.ndarray, about: dict[str, str]
) -> dict[str, tuple]:
    return {
        f"reference_{name}": (dim, reference, about),
        f"predicted_{name}": (dim, predicted, about),
    }


def _melts(dim: str, molten: np.ndarray) -> dict[str, tuple]:
    return {f"{dim}_molten": (dim, molten, {"units": "1", "long_name": "1 in a melt"})}


def from_mean(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Values of atoms, (n_atoms,), without the mean of their species."""
    found = values.copy()
    for z in np.unique(numbers):
        found[numbers == z] -= found[numbers == z].mean()
    return found
