r"""Effect of a teacher's atomic energies: students with and without them on the same frames.

How an energy is divided among atoms is a choice, a gauge. Energies of local terms can be moved from
an atom to its neighbors without changing the energy of any configuration,

.. math:: \varepsilon_i \to \varepsilon_i + G_i, \qquad
          G_i = \sum_j \sum_{kc} a_{kc} \varphi_k(r_{ij}) (u^c_j - u^c_i), \qquad \sum_i G_i = 0,

with radial functions :math:`\varphi_k` and local quantities :math:`u^c` of the atoms: here the
atomic energy itself, the atom's crowding, and its species. A teacher of another architecture
partitions the energy in another way, and capacity that a student spends on following it is lost for
the forces. The coefficients that bring the teacher's partition closest to the one that students
find without labels solve a linear least-squares problem.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr
from ase import Atoms

from kdlib import datasets, processes
from kdlib.distill import students
from kdlib.distill.plan import Plan
from kdlib.distill.students import Trained
from kdlib.distill.workflow import Outcome
from kdlib.errors import InputError
from kdlib.geometry.neighbors import neighbor_pairs
from kdlib.training.accuracy import STATES, against_teacher, from_mean

#: Radial functions of a fitted gauge.
N_RADIAL = 8
#: Directions of the least-squares problem weaker than this share of the strongest are left at zero,
#: because they would be fitted to noise.
WEAKEST = 1e-6


@dataclass(frozen=True)
class Gauge:
    """A fitted change of partition."""

    coefficients: np.ndarray
    """a_kc, over the columns of :func:`columns`."""
    cutoff: float
    """Range of the radial functions, Angstrom."""
    species: tuple[int, ...]
    """Atomic numbers, ascending."""
    before: float
    """Rms difference of the partitions before the fit, up to a constant per species, eV."""
    after: float
    """The same after the fit."""

    @classmethod
    def fit(cls, frames: Sequence[Atoms], natural: Sequence[np.ndarray], cutoff: float) -> "Gauge":
        """Fit the partition of labeled frames to another one.

        Parameters
        ----------
        frames
            Their calculators hold ``energies``, eV, without references of the species.
        natural
            Target atomic energies, one (n_atoms,) array per frame, eV.
        cutoff
            Range, Angstrom.
        """
        if not frames or [len(a) for a in frames] != [len(part) for part in natural]:
            raise InputError("gauge: needs one array of atomic energies for each frame")
        numbers = np.concatenate([atoms.numbers for atoms in frames])
        species = tuple(int(z) for z in np.unique(numbers))
        changes = np.concatenate([columns(atoms, cutoff, species) for atoms in frames])
        constants = (numbers[:, None] == species).astype(float)
        energies = np.concatenate([atoms.calc.results["energies"] for atoms in frames])
        missing = np.concatenate(natural) - energies
        matrix = np.hstack([changes, constants])
        found = np.linalg.lstsq(matrix, missing, rcond=WEAKEST)[0]
        before = missing - constants @ np.linalg.lstsq(constants, missing, rcond=None)[0]
        after = missing - matrix @ found
        root = lambda x: float(np.sqrt(np.mean(x**2)))  # noqa: E731
        return cls(found[: changes.shape[1]], cutoff, species, root(before), root(after))

    def change(self, atoms: Atoms) -> np.ndarray:
        """G_i of a frame, (n_atoms,), eV; its sum is zero."""
        return columns(atoms, self.cutoff, self.species) @ self.coefficients


def columns(atoms: Atoms, cutoff: float, species: Sequence[int]) -> np.ndarray:
    """Changes of the atomic energies that conserve the energy, (n_atoms, n_columns).

    Parameters
    ----------
    atoms
        Its calculator holds ``energies``, eV.
    cutoff
        Range, Angstrom.
    species
        Atomic numbers; all but the last give a column of u each (the last follows from the others).
    """
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    r = np.linalg.norm(pairs.vectors(atoms.positions, atoms.cell.array), axis=1)
    centers = np.linspace(0.2, 0.9, N_RADIAL) * cutoff
    width = centers[1] - centers[0]
    fall = np.cos(0.5 * np.pi * r / cutoff) ** 2
    radial = np.exp(-0.5 * ((r[:, None] - centers) / width) ** 2) * fall[:, None]
    crowding = np.bincount(pairs.first, fall, minlength=len(atoms))
    local = [atoms.calc.results["energies"], crowding]
    local += [(atoms.numbers == z).astype(float) for z in species[:-1]]
    found = np.zeros((len(atoms), N_RADIAL, len(local)))
    for c, u in enumerate(local):
        moved = radial * (u[pairs.second] - u[pairs.first])[:, None]
        np.add.at(found[:, :, c], pairs.first, moved)
    return found.reshape(len(atoms), -1)


#: Name -> use of the labels and factor of their weight.
WAYS = {
    "none": ("none", 1.0),
    "fading": ("fading", 1.0),
    "constant": ("constant", 1.0),
    "constant / 10": ("constant", 0.1),
    "constant, fitted gauge": ("constant", 1.0),
}
FOLDER = "partition"


def compare(
    plan: Plan,
    outcome: Outcome,
    learned: Sequence[Atoms],
    fresh: Sequence[Atoms],
    folder: str | Path,
    n_seeds: int = 3,
    n_epochs: int = 150,
) -> xr.Dataset:
    """Train students with every use of the labels and evaluate them on fresh frames.

    Parameters
    ----------
    plan
        Plan of the distillation; each of :data:`WAYS` replaces its use of labels.
    outcome
        Holds the references of the species.
    learned, fresh
        Labeled frames for training and for evaluation, the same for all.
    folder
        Folder of the distillation; finished trainings in it are reused.

    Returns
    -------
    xr.Dataset
        ``label_force_rmse(labels, seed, state)`` eV/Angstrom, ``label_energy_rmse(labels, seed)``
        eV/atom, and ``partition_difference(stage)`` eV: between the teacher's partition and that of
        students without labels, before and after fitting the gauge, and for comparison the spread
        of the teacher's atomic energies.
    """
    seeds = range(plan.seed, plan.seed + n_seeds)
    base, found = replace(plan, n_models=n_seeds), {}
    reference = outcome.references.subtract(fresh)
    with processes.pool() as executor:

        def trained(way: str, frames: Sequence[Atoms]) -> list[Trained]:
            return _trained(base, way, frames, outcome, folder, n_epochs, executor)

        free = trained("none", learned)
        gauge = _gauge(free, outcome.references.subtract(learned), plan.cutoff)
        for way in WAYS:
            frames = learned
            if way.endswith("gauge"):
                frames = _changed(learned, outcome.references.subtract(learned), gauge)
            group = free if way == "none" else trained(way, frames)
            found[way] = [against_teacher(one.potential, reference) for one in group]
    return _table(found, list(seeds)).merge(_differences(gauge, reference))


def _trained(
    base: Plan, way: str, frames: Sequence[Atoms], outcome: Outcome, folder: str | Path,
    n_epochs: int, executor: Executor,
) -> list[Trained]:  # fmt: skip
    labels, factor = WAYS[way]
    plan = replace(base, labels=labels, atomic_energy=factor * base.atomic_energy)
    return students.train(
        plan, frames, outcome.references, Path(folder) / FOLDER, n_epochs, executor
    )


def _gauge(free: Sequence[Trained], reduced: Sequence[Atoms], cutoff: float) -> Gauge:
    """Fit the teacher's partition to that of students without labels."""
    mean = np.mean([one.potential.predict(reduced).atomic_energies.values for one in free], 0)
    ends = np.cumsum([len(atoms) for atoms in reduced])[:-1]
    return Gauge.fit(reduced, np.split(mean, ends), cutoff)


def _changed(frames: Sequence[Atoms], reduced: Sequence[Atoms], gauge: Gauge) -> list[Atoms]:
    """Copies of frames with another partition of the same energies."""
    pairs = zip(frames, reduced, strict=True)
    energies = [atoms.calc.results["energies"] + gauge.change(bare) for atoms, bare in pairs]
    return datasets.with_energies(frames, energies)


def _table(found: dict[str, list[dict]], seeds: list[int]) -> xr.Dataset:
    forces = [[[one[s]["force_rmse"] for s in STATES] for one in way] for way in found.values()]
    energy = [[one["all"]["energy_rmse"] for one in way] for way in found.values()]
    return xr.Dataset(
        {
            "label_force_rmse": (
                ("labels", "seed", "state"), forces,
                {"units": "eV/Angstrom", "long_name": "force RMSE on fresh frames"},
            ),
            "label_energy_rmse": (
                ("labels", "seed"), energy,
                {"units": "eV/atom", "long_name": "energy RMSE on fresh frames"},
            ),
        },
        coords={
            "labels": ("labels", list(found), {"long_name": "use of the atomic energies"}),
            "seed": ("seed", seeds, {"units": "1", "long_name": "training seed"}),
            "state": ("state", list(STATES), {"long_name": "state"}),
        },
    )  # fmt: skip


def _differences(gauge: Gauge, reduced: Sequence[Atoms]) -> xr.Dataset:
    numbers = np.concatenate([atoms.numbers for atoms in reduced])
    energies = np.concatenate([atoms.calc.results["energies"] for atoms in reduced])
    values = [float(from_mean(energies, numbers).std()), gauge.before, gauge.after]
    stages = ["spread of the teacher's", "before", "after fitting the gauge"]
    about = {"units": "eV", "long_name": "difference from the students' own atomic energies"}
    return xr.Dataset(
        {"partition_difference": ("stage", values, about)},
        coords={"stage": ("stage", stages, {"long_name": "comparison"})},
    )
