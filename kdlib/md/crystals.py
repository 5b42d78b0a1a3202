r"""Properties of crystals that no training uses: lattice, elasticity, vacancy.

They are computed alike for DFT and for models, from energies alone, with any ASE calculator:

- energy-volume curves of fcc, bcc and hcp, fitted by the Birch-Murnaghan equation of state
  (DOI 10.1103/PhysRev.71.809): equilibrium volume, lattice constant, bulk modulus B;
- elastic constants of the cubic fcc crystal at its own equilibrium, from two strains that keep the
  volume to second order (Mehl et al., DOI 10.1103/PhysRevB.41.10311),

  .. math:: \Delta E = V (C_{11} - C_{12})\, \delta^2, \qquad
            \Delta E = \tfrac12 V C_{44}\, \delta^2,

  with :math:`B = (C_{11} + 2 C_{12}) / 3`;
- the energy to form a vacancy in a cell of fixed volume, atoms relaxed,
  :math:`E_v = E_{N-1} - \frac{N - 1}{N} E_N`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import xarray as xr
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import BaseCalculator
from ase.eos import EquationOfState
from ase.optimize import FIRE

from kdlib import progress, units
from kdlib.md.structure import Model
from kdlib.results import schema

STRUCTURES = ("fcc", "bcc", "hcp")
_RUN = ("role", "architecture", "seed")
#: Name of the larger fcc cell, with and without the vacancy.
VACANCY = "vacancy"


@dataclass(frozen=True)
class CrystalProtocol:
    """Crystals and their strains."""

    symbol: str = "Al"
    volume: float = 16.5
    """Center of the energy-volume curves, Angstrom^3/atom."""
    ratios: tuple[float, ...] = (0.88, 0.91, 0.94, 0.97, 1.0, 1.03, 1.06, 1.09, 1.12)
    """Volumes of the curves relative to ``volume``."""
    c_over_a: float = 1.65
    """Ratio of hcp; PBE aluminum relaxes to 1.65."""
    strains: tuple[float, ...] = (0.015, 0.03, 0.045)
    """Strains of the elastic constants; in fcc, negative ones have the same energies."""
    vacancy_cells: int = 2
    """Cubic fcc cells along each axis of the cell with the vacancy."""
    vacancy_force: float = 0.02
    """Largest force at the end of the relaxation, eV/Angstrom."""
    vacancy_steps: int = 200
    """Limit of the relaxation's steps."""


PROTOCOL = CrystalProtocol()
#: Makes a fresh calculator for strained copies of a perfect crystal, whose ``info["structure"]`` is
#: one of :data:`STRUCTURES` or :data:`VACANCY`. Grids and k-points must follow from the crystal,
#: not from its copies; otherwise energies jump where a number of points does.
Calculators = Callable[[Atoms], BaseCalculator]


def crystal(structure: str, volume: float, protocol: CrystalProtocol) -> Atoms:
    """Rectangular cell of a crystal: 4 atoms of fcc and hcp, 2 of bcc.

    Parameters
    ----------
    structure
        One of :data:`STRUCTURES`; kept in ``info``.
    volume
        Angstrom^3/atom.
    """
    p = protocol
    if structure == "hcp":
        atoms = bulk(p.symbol, "hcp", a=3.0, c=3.0 * p.c_over_a, orthorhombic=True)
    else:
        atoms = bulk(p.symbol, structure, a=4.0, cubic=True)
    factor = (volume * len(atoms) / atoms.get_volume()) ** (1 / 3)
    atoms.set_cell(atoms.cell.array * factor, scale_atoms=True)
    atoms.info["structure"] = structure
    return atoms


def lattice_constant(structure: str, volume: float, c_over_a: float) -> float:
    """Lattice constant a (Angstrom) at a volume per atom (Angstrom^3)."""
    if structure == "hcp":
        return (2 * volume / (np.sqrt(0.75) * c_over_a)) ** (1 / 3)
    return (volume * (4 if structure == "fcc" else 2)) ** (1 / 3)


def properties(
    calculators: Calculators,
    protocol: CrystalProtocol = PROTOCOL,
    vacancy: bool = True,
) -> xr.Dataset:
    """Compute all properties of the crystals, with or without the vacancy.

    Returns
    -------
    xr.Dataset
        ``energy(structure, ratio)`` eV/atom, ``equilibrium_volume(structure)`` Angstrom^3/atom,
        ``equilibrium_energy(structure)`` eV/atom, ``lattice_constant(structure)`` Angstrom,
        ``bulk_modulus(structure)`` GPa, ``c11``, ``c12``, ``c44`` GPa and ``vacancy_energy`` eV.
    """
    p = protocol
    total = len(STRUCTURES) * len(p.ratios) + 2 * len(p.strains) + 2 + 2 * vacancy
    with progress.bar(total=total, desc="crystals", unit="energy") as bar:

        def energy(atoms: Atoms, like: Atoms) -> float:
            """Per atom; free energies where there is an electronic temperature."""
            atoms.calc = calculators(like)
            found = _energy(atoms) / len(atoms)
            bar.update()
            return found

        ds = _equations_of_state(energy, p)
        volume = float(ds.equilibrium_volume.sel(structure="fcc"))
        ds = ds.assign(_elastic_constants(energy, volume, ds, p))
        if vacancy:
            found = _vacancy_energy(calculators, volume, p)
            bar.update(2)
            ds["vacancy_energy"] = ((), found, _about("eV", "vacancy formation energy, fixed cell"))
    return ds


def _energy(atoms: Atoms) -> float:
    """Energy whose gradient the forces are, eV."""
    results = atoms.calc.implemented_properties
    return float(atoms.get_potential_energy(force_consistent="free_energy" in results))


def _about(unit: str, meaning: str) -> dict[str, str]:
    return {"units": unit, "long_name": meaning}


def _equations_of_state(energy: Callable[[Atoms, Atoms], float], p: CrystalProtocol) -> xr.Dataset:
    volumes = p.volume * np.array(p.ratios)
    rows, fits = [], []
    for structure in STRUCTURES:
        like = crystal(structure, p.volume, p)
        energies = [energy(crystal(structure, volume, p), like) for volume in volumes]
        rows.append(energies)
        fits.append(fit(volumes, np.array(energies)))
    at, lowest, modulus = np.transpose(fits)
    constants = [
        lattice_constant(name, v, p.c_over_a) for name, v in zip(STRUCTURES, at, strict=True)
    ]
    dim = ("structure",)
    return xr.Dataset(
        {
            "energy": (("structure", "ratio"), rows, _about("eV/atom", "energy per atom")),
            "volume": ("ratio", volumes, _about("Angstrom^3/atom", "volume per atom")),
            "equilibrium_volume": (dim, at, _about("Angstrom^3/atom", "equilibrium volume")),
            "equilibrium_energy": (dim, lowest, _about("eV/atom", "energy at equilibrium")),
            "lattice_constant": (dim, constants, _about("Angstrom", "lattice constant a")),
            "bulk_modulus": (dim, modulus, _about("GPa", "bulk modulus")),
        },
        coords={
            "structure": ("structure", list(STRUCTURES), {"long_name": "crystal structure"}),
            "ratio": ("ratio", list(p.ratios), _about("1", "volume over that of the middle")),
        },
    )


def fit(volumes: np.ndarray, energies: np.ndarray) -> tuple[float, float, float]:
    """Fit the Birch-Murnaghan equation of state to volumes (Angstrom^3/atom), energies (eV/atom).

    Returns volume (Angstrom^3/atom), energy (eV/atom) and bulk modulus (GPa) at the minimum; NaN if
    the lowest energy is at an end.
    """
    if not 0 < energies.argmin() < len(energies) - 1:
        return np.nan, np.nan, np.nan
    volume, energy, modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()
    return volume, energy, modulus / units.GPA


def _elastic_constants(
    energy: Callable[[Atoms, Atoms], float], volume: float, ds: xr.Dataset, p: CrystalProtocol
) -> dict[str, tuple]:
    if not np.isfinite(volume):
        c11 = c12 = c44 = np.nan
    else:
        shear = _curvature(energy, volume, _tetragonal, p) / volume  # C11 - C12
        c44 = 2 * _curvature(energy, volume, _monoclinic, p) / volume / units.GPA
        shear /= units.GPA
        modulus = float(ds.bulk_modulus.sel(structure="fcc"))
        c11, c12 = modulus + 2 * shear / 3, modulus - shear / 3
    return {
        name: ((), value, _about("GPa", f"elastic constant {name.upper()} of fcc"))
        for name, value in (("c11", c11), ("c12", c12), ("c44", c44))
    }


def _tetragonal(d: float) -> np.ndarray:
    return np.diag([1 + d, 1 - d, 1 / (1 - d * d)])


def _monoclinic(d: float) -> np.ndarray:
    half = d / 2
    return np.array([[1, half, 0], [half, 1, 0], [0, 0, 1 / (1 - half * half)]])


def _curvature(
    energy: Callable[[Atoms, Atoms], float],
    volume: float,
    strain: Callable[[float], np.ndarray],
    p: CrystalProtocol,
) -> float:
    """Coefficient of delta^2 in the energy per atom, eV."""
    like = crystal("fcc", volume, p)
    energies = []
    for delta in (0.0, *p.strains):
        atoms = like.copy()
        atoms.set_cell(atoms.cell.array @ strain(delta), scale_atoms=True)
        energies.append(energy(atoms, like))
    # delta^4 absorbs the anharmonicity of the larger strains; odd powers vanish by symmetry.
    design = np.transpose([np.power(p.strains, 2), np.power(p.strains, 4)])
    changes = np.array(energies[1:]) - energies[0]
    return float(np.linalg.lstsq(design, changes, rcond=None)[0][0])


def _vacancy_energy(calculators: Calculators, volume: float, p: CrystalProtocol) -> float:
    if not np.isfinite(volume):
        return np.nan
    perfect = crystal("fcc", volume, p).repeat(p.vacancy_cells)
    perfect.info["structure"] = VACANCY
    defective = perfect.copy()
    del defective[0]  # at the origin: the point group stays
    perfect.calc = calculators(perfect.copy())
    defective.calc = calculators(perfect.copy())
    # FIRE, because BFGS does not come to rest where the energy of a model has a cusp
    FIRE(defective, logfile=None).run(fmax=p.vacancy_force, steps=p.vacancy_steps)
    n = len(perfect)
    return _energy(defective) - (n - 1) / n * _energy(perfect)


#: Quantity -> unit; differences of energies are against fcc, each at its own equilibrium.
QUANTITIES = {
    "lattice constant": "Angstrom",
    "bulk modulus": "GPa",
    "C11": "GPa",
    "C12": "GPa",
    "C44": "GPa",
    "bcc - fcc": "eV/atom",
    "hcp - fcc": "eV/atom",
    "vacancy": "eV",
}


def quantities(ds: xr.Dataset) -> xr.DataArray:
    """Numbers of fcc and differences between structures over ``quantity``, from `properties`."""
    fcc = ds.sel(structure="fcc")
    lowest = ds.equilibrium_energy
    found = [
        fcc.lattice_constant, fcc.bulk_modulus, ds.c11, ds.c12, ds.c44,
        lowest.sel(structure="bcc") - fcc.equilibrium_energy,
        lowest.sel(structure="hcp") - fcc.equilibrium_energy,
        ds["vacancy_energy"] if "vacancy_energy" in ds else xr.full_like(ds.c11, np.nan),
    ]  # fmt: skip
    index = xr.Variable("quantity", list(QUANTITIES), {"long_name": "property of fcc"})
    joined = xr.concat(
        [one.drop_vars("structure", errors="ignore") for one in found],
        index, coords="minimal", compat="override", combine_attrs="drop",
    )  # fmt: skip
    return joined.rename("value").assign_attrs(units="1", long_name="value, in the unit of `unit`")


def models(
    load: Callable[[str, str, int], Model],
    accuracy: xr.Dataset,
    protocol: CrystalProtocol = PROTOCOL,
) -> xr.Dataset:
    """:func:`properties` of all models in ``accuracy``, over role, architecture and seed.

    ``load`` returns the model of a role, an architecture and a seed; the protocol is the DFT's.
    """
    cells = []
    keys = trained(accuracy)
    with progress.bar(total=len(keys), desc="crystals", unit="model") as bar:
        for role, architecture, seed in keys:
            bar.set_description_str(f"{role} {architecture} {seed}")
            found = properties(_calculators(load(role, architecture, seed)), protocol)
            where = {"role": [role], "architecture": [architecture], "seed": [seed]}
            shared = found[["volume"]]
            cells.append(found.drop_vars("volume").expand_dims(where).merge(shared))
            bar.update()
    whole = xr.merge(cells, join="outer", compat="no_conflicts", combine_attrs="override")
    order = {dim: accuracy[dim].values for dim in _RUN}
    return whole.reindex(order)


def compare(found: xr.Dataset, physics: xr.Dataset) -> xr.Dataset:
    """Combine :func:`models` and the record ``physics`` for :func:`kdlib.figures.crystals`.

    The reference is DFT at the settings of the labels; ``converged_value(quantity)`` is added.
    """
    label = physics.sel(settings="label", drop=True)
    ds = found[["energy", "volume"]].assign(
        value=quantities(found),
        reference_energy=label.energy,
        reference_value=quantities(label).rename("reference_value"),
    )
    if "converged" in physics.settings.values:
        converged = quantities(physics.sel(settings="converged", drop=True))
        ds["converged_value"] = converged.rename("converged_value")
    units = [QUANTITIES[name] for name in ds.quantity.values.tolist()]
    return ds.assign_coords(unit=("quantity", units, {"long_name": "unit of the quantity"}))


def table(ds: xr.Dataset) -> pd.DataFrame:
    """Numbers of DFT and the mean of each role's models from :func:`compare`, by quantity."""
    columns = {"unit": ds.unit, "DFT, label": ds.reference_value}
    if "converged_value" in ds:
        columns["DFT, converged"] = ds.converged_value
    means = ds.value.mean(["architecture", "seed"])
    columns |= {schema.ROLE_NAMES[role]: means.sel(role=role) for role in ds.role.values.tolist()}
    rows = ds.quantity.values.tolist()
    return pd.DataFrame({name: column.values for name, column in columns.items()}, rows)


def _calculators(model: Model) -> Calculators:
    return lambda like: model.calculator(backend="fused", device="cpu")


def trained(accuracy: xr.Dataset) -> list[tuple[str, str, int]]:
    """Role, architecture and seed of every model that has an error."""
    there = accuracy.force_rmse.notnull().any("split")
    grid = product(*(accuracy[dim].values.tolist() for dim in _RUN))
    return [key for key in grid if bool(there.sel(dict(zip(_RUN, key, strict=True))))]
