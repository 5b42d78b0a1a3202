"""Liquid of one model: what is run, by ASE or by LAMMPS, and what is taken from the run."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from ase import Atoms

from kdlib.md import dynamics
from kdlib.md.lammps import nvt as lammpsnvt
from kdlib.md import liquid
from kdlib.geometry import rdf
from kdlib.md import trajectory
from kdlib.md.dynamics import DynamicsError
from kdlib.errors import InputError
from kdlib.hipnn import Potential

#: Name -> NVT. Both run a chain of Nose and Hoover; LAMMPS comes with the extra ``lammps``.
ENGINES = {"ase": dynamics.nvt, "lammps": lammpsnvt.nvt}


@dataclass(frozen=True)
class StructureProtocol:
    """How the g(r) of a model is measured, and over what range its error is taken."""

    temperature: float = 1200.0
    """In K."""
    equilibration_steps: int = 1000
    """Steps under the model's own forces before samples are taken."""
    n_steps: int = 20000
    """Steps that are sampled."""
    timestep: float = 2.0
    """In fs."""
    sample_every: int = 20
    """Steps between samples; g(r) forgets itself in some 100 fs."""
    n_bins: int = 160
    """Bins of g(r) between 0 and ``r_max``."""
    r_min: float = 2.0
    """Lower bound of the error, Angstrom."""
    r_max: float = 8.0
    """Upper bound of the error, Angstrom."""
    n_pieces: int = 4
    """Equally long pieces of a run, from whose scatter the noise floor follows."""
    engine: str = "ase"
    """Who integrates the motion: ``"ase"`` or ``"lammps"``."""
    backend: str = "fused"
    """Of the calculator."""
    device: str = "auto"
    """Of the calculator."""
    seed: int = 0
    """Of the velocities."""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(
                f"StructureProtocol: engine is {self.engine!r}, must be one of {tuple(ENGINES)}"
            )
        if self.n_steps // self.sample_every < 2 * self.n_pieces or self.n_pieces < 2:
            raise InputError(
                f"StructureProtocol: {self.n_steps} steps sampled every {self.sample_every} are "
                f"too few for {self.n_pieces} pieces of two samples"
            )


PROTOCOL = StructureProtocol()


def liquid_structure(
    potential: Potential, start: Atoms, protocol: StructureProtocol = PROTOCOL
) -> xr.Dataset:
    """Sample the liquid of one model.

    Parameters
    ----------
    potential
        Model.
    start
        Liquid to start from; not changed.
    protocol
        What is run.

    Returns
    -------
    xarray.Dataset
        ``g(r)``, ``g_piece(piece, r)``, ``temperature`` (K, mean), ``diffusion`` (Angstrom^2/fs)
        and ``is_liquid``; all NaN, with the reason in the attribute ``failure``, for a model whose
        run explodes: that is a property of the model.
    """
    p = protocol
    atoms = Atoms(start.numbers, start.positions, cell=start.cell, pbc=start.pbc)
    atoms.calc = potential.calculator(backend=p.backend, device=p.device)
    liquid.thermalize(atoms, p.temperature, np.random.default_rng(p.seed))
    nvt = ENGINES[p.engine]
    try:
        for n_steps in (p.equilibration_steps, p.n_steps):
            run = nvt(atoms, p.temperature, n_steps, p.timestep, p.seed, p.sample_every)
    except DynamicsError as error:
        return _failed(p, str(error))
    return _summary(run, p)


def _summary(run: xr.Dataset, p: StructureProtocol) -> xr.Dataset:
    positions, cell = run.positions.values, run.cell.values
    msd = trajectory.mean_squared_displacement(run)
    parts = rdf.pieces(positions, cell, p.n_pieces, p.r_max, p.n_bins)
    return xr.Dataset(
        {
            "g": rdf.rdf(positions, cell, p.r_max, p.n_bins),
            "g_piece": xr.concat(parts, "piece", coords="minimal", compat="override"),
            "temperature": float(run.temperature.mean()),
            "diffusion": trajectory.diffusion(msd),
            "is_liquid": float(trajectory.is_liquid(msd)),
        }
    )


def _failed(p: StructureProtocol, reason: str) -> xr.Dataset:
    r = rdf.centres(p.r_max, p.n_bins)
    empty = xr.DataArray(np.full((p.n_pieces, p.n_bins), np.nan), {"r": r}, ("piece", "r"))
    scalars = dict.fromkeys(("temperature", "diffusion", "is_liquid"), np.nan)
    return xr.Dataset({"g": empty[0], "g_piece": empty, **scalars}, attrs={"failure": reason})
