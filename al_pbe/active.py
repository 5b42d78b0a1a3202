"""Active learning: configurations on which an ensemble of models disagrees.

Trajectory j of a round has its own temperature, density and start (crystal or melt), drawn from the
round's number and j. One model drives its MD, and the disagreement of all of them is evaluated
along the way (:mod:`kdlib.md.exploration`). Each trajectory's most disputed configuration that is
still physical (no pair too close, no excessive force) is a candidate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from ase import Atoms
from ase.build import bulk

from al_pbe import campaign
from al_pbe.campaign import CLOSEST_PAIR
from al_pbe.labeling import label
from al_pbe.sampling import ACTIVE
from kdlib import hipnn, progress, units
from kdlib.errors import InputError
from kdlib.hipnn import Potential
from kdlib.md.exploration import Excursion, Trajectory, disagreement, follow, largest_force

#: Frame numbers reserved for each round.
PER_ROUND = 1000


@dataclass(frozen=True)
class Exploration:
    """Settings of the trajectories of a round."""

    temperatures: tuple[float, float] = (300.0, 3000.0)
    """Range, K."""
    densities: tuple[float, float] = (2.0, 3.2)
    """Range, g/cm3."""
    melting: float = 900.0
    """Above this temperature (K), every other trajectory starts from a melt."""
    hot: float = 4000.0
    """Temperature of the melt, K."""
    n_cells: int = 2
    """Cubic fcc cells along each axis."""
    melt_steps: int = 300
    n_steps: int = 1500
    """Steps after the melt, from which frames are selected."""
    timestep: float = 2.0
    """Time step, fs."""
    sample_every: int = 25
    """Steps between evaluated configurations."""
    largest_force: float = 40.0
    """A configuration with a larger predicted force (eV/Angstrom) counts as unphysical."""


@dataclass(frozen=True)
class Candidate:
    """The most disputed physical configuration of a trajectory."""

    atoms: Atoms
    """Configuration; its ``info`` says where it comes from."""
    disagreement: float
    """Disagreement, eV/Angstrom."""
    median: float
    """Median disagreement along the trajectory, eV/Angstrom."""
    survived: float
    """Share of the trajectory before it became unphysical."""


def start(number: int, j: int, protocol: Exploration) -> tuple[Atoms, float, bool]:
    """Initial crystal of a trajectory, its temperature (K), and whether it is melted first."""
    p, rng = protocol, np.random.default_rng([number, j])
    temperature = rng.uniform(*p.temperatures)
    density = rng.uniform(*p.densities)
    atoms = bulk("Al", a=4.05, cubic=True).repeat(p.n_cells)
    volume = atoms.get_masses().sum() * units.GRAM_PER_CM3 / density
    strain = np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3))
    cell = atoms.cell.array @ strain
    atoms.set_cell(cell * (volume / abs(np.linalg.det(cell))) ** (1 / 3), scale_atoms=True)
    atoms.rattle(0.05, rng=rng)
    return atoms, temperature, bool(temperature > p.melting and j % 2)


def explore(
    potentials: Sequence[Potential],
    number: int,
    j: int,
    protocol: Exploration = Exploration(),
) -> Candidate | None:
    """Run trajectory j of a round (from 1); None when it has no physical frame.

    Model j modulo the size of the ensemble drives the MD.
    """
    p = protocol
    atoms, temperature, molten = start(number, j, p)
    excursion = Excursion(
        temperature, p.n_steps, p.sample_every, p.timestep, p.hot if molten else 0.0,
        p.melt_steps, closest=CLOSEST_PAIR, seed=j,
    )  # fmt: skip
    driver = potentials[j % len(potentials)].calculator(backend="fused", device="cpu")
    path = follow(atoms, driver, excursion)
    return _most_disputed(potentials, path, number, j, temperature, molten, p)


def _most_disputed(
    potentials: Sequence[Potential],
    path: Trajectory,
    number: int,
    j: int,
    temperature: float,
    molten: bool,
    p: Exploration,
) -> Candidate | None:
    if not path.frames:
        return None
    forces, frame_index = hipnn.ensemble_forces(potentials, path.frames)
    disputed = disagreement(forces, frame_index)
    largest = largest_force(forces[0], frame_index)
    # Models disagree most on collapsed frames, but DFT labels of those would teach nothing of use.
    physical = np.flatnonzero(largest < p.largest_force)
    if not len(physical):
        return None
    best = int(physical[disputed[physical].argmax()])
    atoms = path.frames[best]
    atoms.wrap()
    atoms.info.update(
        phase="active", temperature_K=round(temperature, 1), sampling="active learning",
        round=number, trajectory=j, molten=molten, disagreement=round(float(disputed[best]), 4),
    )  # fmt: skip
    return Candidate(atoms, float(disputed[best]), float(np.median(disputed)), path.survived)


def round_of(
    potentials: Sequence[Potential],
    number: int,
    n_trajectories: int,
    n_chosen: int,
    protocol: Exploration = Exploration(),
) -> tuple[list[Atoms], xr.Dataset]:
    """Explore, and choose the most disputed candidates of all trajectories.

    Parameters
    ----------
    number
        Number of the round, from 1; with the index of a trajectory it fixes the random numbers.
    n_chosen
        Number of configurations to label.

    Returns
    -------
    list[Atoms]
        Frames to label; ``info["frame"]`` is 6000 + 1000 (round - 1) + trajectory.
    xr.Dataset
        ``disagreement``, ``median_disagreement`` (eV/Angstrom), ``survived`` over ``trajectory``.

    Raises
    ------
    InputError
        More trajectories than a round has numbers of frames.
    """
    if n_trajectories > PER_ROUND:
        raise InputError(f"active learning: {n_trajectories} trajectories, but a round has numbers "
                         f"for {PER_ROUND} frames")  # fmt: skip
    found: dict[int, Candidate] = {}
    with progress.bar(total=n_trajectories, desc="exploring", unit="trajectory") as bar:
        for j in range(n_trajectories):
            candidate = explore(potentials, number, j, protocol)
            if candidate is not None:
                candidate.atoms.info["frame"] = ACTIVE + PER_ROUND * (number - 1) + j
                found[j] = candidate
            bar.update()
    ranked = sorted(found, key=lambda j: -found[j].disagreement)
    chosen = [found[j].atoms for j in sorted(ranked[:n_chosen])]
    columns = {
        "disagreement": ("largest disagreement", "eV/Angstrom", "disagreement"),
        "median_disagreement": ("median disagreement", "eV/Angstrom", "median"),
        "survived": ("share of the trajectory that stayed physical", "1", "survived"),
    }
    ds = xr.Dataset(coords={"trajectory": sorted(found)})
    for name, (meaning, unit, field) in columns.items():
        values = [getattr(found[j], field) for j in sorted(found)]
        ds[name] = xr.Variable("trajectory", values, {"long_name": meaning, "units": unit})
    return chosen, ds


def label_round(
    chosen: Sequence[Atoms],
    folder: Path,
    labeler: Callable[[Atoms], Atoms] = label,
) -> list[Path]:
    """Label the frames that :func:`round_of` chose; a repeated call resumes."""
    by_index = {int(atoms.info["frame"]): atoms for atoms in chosen}
    return campaign.run(sorted(by_index), folder, by_index.__getitem__, labeler)
