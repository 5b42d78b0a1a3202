"""Errors of a model, pooled over a whole part of the data, and parity with the reference.

An RMSE is the root of summed squares over the count, never a mean of batch RMSEs. Energies are per
atom, forces per component, stresses per component of the (3, 3) tensor.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from ase import Atoms
from torch import Tensor

from kdlib.datasets import PARTS, Split, atomic_energies, frame_numbers, species
from kdlib.datasets.summary import phase_of
from kdlib.geometry.neighbors import neighbor_pairs
from kdlib.hipnn import HipnnModule, Potential, Prediction
from kdlib.hipnn.batches import Batch, reference_stress

#: What a model is trained on.
TARGETS = ("energy", "force", "atomic_energy", "stress")
#: Share of the largest force errors left out of the trimmed RMSE, which a few frames cannot drive.
TRIMMED = 1e-3
#: Phases of the frames of a distillation, and the kinds of frames that errors are given for.
PHASES = ("solid", "molten")
STATES = ("all", *PHASES)
#: Errors of :func:`summary` that a distillation looks at.
ERRORS = ("force_rmse", "energy_rmse", "stress_rmse")
#: First minimum of g(r) of liquid aluminum, Angstrom: closer neighbors are counted.
FIRST_SHELL = 3.9
#: The same for other materials, over the median distance of nearest neighbors: between the first
#: and the second shell of close packing (1 and 1.41), beyond both of bcc (1 and 1.15).
SHELL_RATIO = 1.35
#: Most points of each kind in the parity plot of a student.
MAX_POINTS = 4000


class PooledErrors:
    """Errors collected over batches; statistics are computed on request."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray | Tensor] = [np.empty(0)]

    def add(self, errors: np.ndarray | Tensor) -> None:
        """Add the errors of a batch, of any shape; a device is not waited for."""
        self._parts.append(errors)

    def _all(self) -> np.ndarray:
        tensors = [part.flatten() for part in self._parts if isinstance(part, Tensor)]
        # Joined first: each copy from a device waits for it.
        parts = [torch.cat(tensors).cpu().numpy()] if tensors else []
        parts += [np.ravel(part) for part in self._parts if not isinstance(part, Tensor)]
        self._parts = [np.concatenate(parts, dtype=float)]
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
    """Pooled errors of every target that a batch can hold."""

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
        """Add the errors of a prediction of a batch."""
        cell = prediction.energy - batch.energy
        sizes = torch.zeros_like(cell).index_add(
            0, batch.frame, torch.ones_like(batch.forces[:, 0])
        )
        # sizes not by bincount, which waits for a device
        found = {"cell_energy": cell, "energy": cell / sizes}
        found["force"] = prediction.forces - batch.forces
        if batch.atomic_energies is not None:
            found["atomic_energy"] = prediction.atomic_energies - batch.atomic_energies
        if prediction.virial is not None:
            found["stress"] = batch.stress_errors(prediction.virial)
        self.add_differences({name: difference.detach() for name, difference in found.items()})

    def add_differences(self, found: Mapping[str, np.ndarray | Tensor]) -> None:
        """Add errors by the names of the targets."""
        for name, difference in found.items():
            self.pooled[name].add(difference)

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
    potential: Potential, frames: Sequence[Atoms], joined: Sequence[Batch] | None = None
) -> dict[str, np.ndarray]:
    """Model minus reference of labeled frames; empty without frames.

    ``joined`` are the frames as batches, where they are known (:meth:`Potential.joined`).

    Returns
    -------
    dict
        ``energy`` (n_frames,) eV/atom, ``cell_energy`` (n_frames,) eV, ``force`` (n_atoms, 3)
        eV/Angstrom, ``atomic_energy`` (n_atoms,) eV where all frames carry them, ``stress``
        (frames with a stress, 3, 3) eV/Angstrom^3 where there is one, and ``frame`` (n_atoms,).
    """
    if not len(frames):
        return {}
    stress = np.reshape([reference_stress(atoms) for atoms in frames], (-1, 3, 3))
    stressed = np.isfinite(stress).all(axis=(1, 2))
    ds = potential.predict(frames, stress=bool(stressed.any()), joined=joined)
    cell = ds.energy.values - [atoms.calc.results["energy"] for atoms in frames]
    found = {
        "cell_energy": cell,
        "energy": cell / [len(atoms) for atoms in frames],
        "force": ds.forces.values - _reference_forces(frames),
        "frame": ds.frame_index.values,
    }
    labels = [atomic_energies(atoms) for atoms in frames]
    if all(part is not None for part in labels):
        found["atomic_energy"] = ds.atomic_energies.values - np.concatenate(labels)
    if stressed.any():
        found["stress"] = ds.stress.values[stressed] - stress[stressed]
    return found


def _reference_forces(frames: Sequence[Atoms]) -> np.ndarray:
    return np.concatenate([atoms.calc.results["forces"] for atoms in frames])


def summary(errors: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Pooled errors of :func:`residuals` under the names of the result files; NaN of nothing."""
    pooled = {
        f"{name}_{measure.__name__}": measure(errors.get(name, np.empty(0)))
        for name in TARGETS
        for measure in (rmse, mae)
    }
    squares, sizes = frame_squares(errors)
    return pooled | {
        "cell_energy_rmse": rmse(errors.get("cell_energy", np.empty(0))),
        "force_rmse_trimmed": trimmed_rmse(errors.get("force", np.empty(0))),
        "force_rmse_median": float(np.median(np.sqrt(squares))) if len(squares) else np.nan,
        "force_worst_share": worst_share(squares * sizes),
        "energy_worst_share": worst_share(errors.get("energy", np.empty(0)) ** 2),
    }


def frame_squares(errors: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean-square force error of each frame, eV^2/Angstrom^2, and its number of atoms."""
    if "frame" not in errors:
        return np.empty(0), np.empty(0)
    sizes = np.bincount(errors["frame"])
    return np.bincount(errors["frame"], (errors["force"] ** 2).mean(1)) / sizes, sizes


def worst_share(squares: np.ndarray) -> float:
    """Share that the worst frame has in the sum of squared errors; NaN without an error."""
    total = squares.sum()
    return float(squares.max() / total) if total > 0 else np.nan


def evaluate(
    potential: Potential,
    frames: Sequence[Atoms],
    split: Split,
    joined: Mapping[str, Sequence[Batch]] | None = None,
) -> xr.Dataset:
    """Errors of one model on every part, and of each test frame for the bootstrap over frames.

    Where frames carry the atomic energies of the model's own teacher, they are compared, too.
    ``joined`` are the parts as batches, where they are known (:func:`joined_parts`).

    Returns
    -------
    xr.Dataset
        The accuracy variables of the result schema over ``split`` and ``frame``.
    """
    known = joined or {}
    errors = {
        part: residuals(potential, some, known.get(part))
        for part, some in split.parts(frames).items()
    }
    columns = [summary(found) for found in errors.values()]
    ds = xr.Dataset(
        {name: ("split", [column[name] for column in columns]) for name in columns[0]},
        coords={"split": list(PARTS)},
    )
    # The bootstrap draws whole frames, since errors within a frame are correlated. Mean squares
    # per frame are enough for that: they can be averaged, RMSEs of frames cannot.
    test = errors["test"]
    squares, sizes = frame_squares(test)
    ds["frame_force_mse"] = ("frame", squares)
    ds["frame_energy_error"] = ("frame", test["energy"])
    ds = ds.merge(_by_phase(test, [phase_of(frames[k]) for k in split.test]))
    of_frames = {"frame": frame_numbers(frames)[split.test], "frame_n_atoms": ("frame", sizes)}
    return ds.assign_coords(of_frames)  # which all models share


def joined_parts(
    potential: Potential, frames: Sequence[Atoms], split: Split
) -> dict[str, list[Batch]]:
    """Every part as batches, which all potentials with this one's cutoff and precision share."""
    return {part: potential.joined(some) for part, some in split.parts(frames).items() if some}


def _by_phase(errors: Mapping[str, np.ndarray], phases: Sequence[str]) -> xr.Dataset:
    """Pooled errors of the frames of each phase."""
    names = sorted(set(phases))
    frames = np.array(phases)
    atoms = frames[errors["frame"]]
    return xr.Dataset(
        {
            "phase_force_rmse": ("phase", [rmse(errors["force"][atoms == n]) for n in names]),
            "phase_energy_rmse": ("phase", [rmse(errors["energy"][frames == n]) for n in names]),
        },
        coords={"phase": names},
    )


def against_teacher(potential: Potential, frames: Sequence[Atoms]) -> dict[str, dict[str, float]]:
    """:func:`errors_of` all frames, the solid and the molten ones, as ``info["molten"]`` says."""
    melts = [atoms for atoms in frames if atoms.info.get("molten", False)]
    solids = [atoms for atoms in frames if not atoms.info.get("molten", False)]
    chosen = zip(STATES, (frames, solids, melts), strict=True)
    return {state: errors_of(potential, some) for state, some in chosen}


def errors_of(potential: Potential, frames: Sequence[Atoms]) -> dict[str, float]:
    """Pooled errors on labeled frames.

    Returns
    -------
    dict
        ``force_rmse`` eV/Angstrom, ``energy_rmse`` eV/atom, ``stress_rmse`` eV/Angstrom^3,
        ``force_rms`` of the labels, ``n_frames``. NaN without frames.
    """
    found = summary(residuals(potential, frames))
    errors = {name: found[name] for name in ERRORS}
    size = rmse(_reference_forces(frames)) if frames else np.nan
    return errors | {"force_rms": size, "n_frames": len(frames)}


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
    other
        A model of another seed, to compare the atomic energies with.
    first_shell
        Radius that defines the coordination number, Angstrom; by default 3.9 for aluminum, and
        1.35 times the median distance of nearest neighbors for anything else.

    Returns
    -------
    xr.Dataset
        Result of kind ``parity``.
    """
    test = [frames[k] for k in split.test]
    phases = np.array([phase_of(atoms) for atoms in test])
    radius = first_shell_of(test) if first_shell is None else first_shell
    ds = potential.predict(test)
    found = _compared(ds, test).assign(
        frame_phase=("frame", phases),
        atomic_energy=("atom", ds.atomic_energies.values),
        coordination=("atom", np.concatenate([_coordination(atoms, radius) for atoms in test])),
        atom_phase=("atom", phases[ds.frame_index.values]),
        atom_frame=("atom", ds.frame_index.values),
    )
    if other is not None:
        values = other.predict(test, forces=False).atomic_energies.values
        found["atomic_energy_other"] = ("atom", values)
    return found.assign_coords(frame=frame_numbers(frames)[split.test])


def student_parity(potential: Potential, fresh: Sequence[Atoms]) -> xr.Dataset:
    """Compare a student with its teacher's labels, at most :data:`MAX_POINTS` of a kind.

    Parameters
    ----------
    potential
        Student that predicts the teacher's energies, references included.
    fresh
        Labeled frames; ``info["molten"]`` says which are melts.

    Returns
    -------
    xr.Dataset
        ``reference_*`` of the teacher and ``predicted_*`` of the student: ``energy(frame)``
        eV/atom, ``force(sample)`` eV/Angstrom and, where the teacher gives them, ``atomic(atom)``
        eV; ``frame_molten`` and ``sample_molten`` are 1 in a melt.
    """
    ds = potential.predict(fresh)
    found = _compared(ds, fresh)
    molten = np.array([float(atoms.info["molten"]) for atoms in fresh])
    for dim, values in {"frame": molten, "sample": np.repeat(molten[ds.frame_index], 3)}.items():
        found[f"{dim}_molten"] = (dim, values, {"units": "1", "long_name": "1 in a melt"})
    labels = [atomic_energies(atoms) for atoms in fresh]
    if all(part is not None for part in labels):
        # No force knows a constant of a species, so the means of species are not compared.
        numbers = np.concatenate([atoms.numbers for atoms in fresh])
        about = {"units": "eV", "long_name": "atomic energy, from the mean of its species"}
        given = {"reference": np.concatenate(labels), "predicted": ds.atomic_energies.values}
        for name, values in given.items():
            found[f"{name}_atomic"] = ("atom", from_mean(values, numbers), about)
    rng = np.random.default_rng(0)
    dims = [dim for dim in ("sample", "atom") if dim in found.dims]
    return found.isel({dim: rng.permutation(found.sizes[dim])[:MAX_POINTS] for dim in dims})


def _compared(ds: xr.Dataset, frames: Sequence[Atoms]) -> xr.Dataset:
    """Energies per atom and force components: labels beside a model's prediction."""
    sizes = [len(atoms) for atoms in frames]
    energies = np.array([atoms.calc.results["energy"] for atoms in frames])
    return xr.Dataset(
        {
            "reference_energy": ("frame", energies / sizes),
            "predicted_energy": ("frame", ds.energy.values / sizes),
            "reference_force": ("sample", _reference_forces(frames).ravel()),
            "predicted_force": ("sample", ds.forces.values.ravel()),
        }
    )


def from_mean(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Values of atoms, (n_atoms,), without the mean of their species."""
    found = values.copy()
    for z in np.unique(numbers):
        found[numbers == z] -= found[numbers == z].mean()
    return found


def first_shell_of(frames: Sequence[Atoms]) -> float:
    """Radius of the first shell of neighbors, Angstrom."""
    if species(frames) == ("Al",):
        return FIRST_SHELL
    nearest = [_nearest(atoms) for atoms in frames]
    return float(SHELL_RATIO * np.median(np.concatenate(nearest)))


def _nearest(atoms: Atoms, reach: float = 4.0) -> np.ndarray:
    """Distance of each atom's nearest neighbor, at most ``reach``, Angstrom."""
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    return np.minimum(pairs.nearest(atoms.positions, atoms.cell.array), reach)


def _coordination(atoms: Atoms, radius: float) -> np.ndarray:
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, radius)
    return np.diff(pairs.row)
