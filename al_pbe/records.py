"""Records of the DFT data (:data:`kdlib.datasets.records.RECORDS`).

They take hours. Each calculation has a file, so that a stopped run can be resumed. :func:`store`
puts a record beside the frames.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import xarray as xr
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes

from al_pbe import quality
from al_pbe.labeling import CONVERGED, PRODUCTION, LabelSettings, calculator, versions
from al_pbe.packing import DATA
from kdlib import datasets, progress, results
from kdlib.datasets.records import RECORDS
from kdlib.errors import InputError
from kdlib.files import replacing
from kdlib.md import crystals
from kdlib.md.crystals import CrystalProtocol

Copies = tuple[int, int, int]
#: Makes a calculator from settings, a perfect crystal and the supercell that sets the k-points.
Maker = Callable[[LabelSettings, Atoms, Copies], BaseCalculator]

#: Crystal -> number of its cells in a frame of the dataset (hcp: the smaller of two).
SUPERCELLS: dict[str, Copies] = {"fcc": (2, 2, 2), "bcc": (4, 2, 2), "hcp": (2, 2, 2)}
ITSELF: Copies = (1, 1, 1)


@dataclass(frozen=True)
class Level:
    """Settings at which crystals are computed."""

    crystals: LabelSettings
    """Settings for energy-volume curves and elastic constants."""
    vacancy: LabelSettings
    """Settings for the vacancy, in a cell of the size of a frame."""
    supercells: Mapping[str, Copies] = field(default_factory=dict)
    """Crystal -> supercell whose k-points are used; by default those of its own small cell."""


#: Value of dimension ``settings`` -> level. With few k-points a perfect crystal has an error that
#: no disorder averages out and that differs between meshes. So ``label`` uses the mesh of the
#: frames, and C11 - C12 of ``converged`` needs twice the density that forces need.
LEVELS = {
    "label": Level(PRODUCTION, PRODUCTION, SUPERCELLS),
    "converged": Level(replace(CONVERGED, kpoint_density=12.0), CONVERGED),
}


class Stored(Calculator):
    """Calculator that stores every result in a file and reads it the next time.

    Parameters
    ----------
    make
        Makes the calculator for what no file holds.
    stem
        Folder and prefix of the files.
    settings
        Everything else that an energy depends on.
    """

    implemented_properties = ("energy", "free_energy", "forces")

    def __init__(self, make: Callable[[], BaseCalculator], stem: Path, settings: str) -> None:
        super().__init__()
        self._make, self._stem, self._settings = make, stem, settings
        self._inner: BaseCalculator | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Find energies (eV) and forces (eV/Angstrom) in a file, or compute and write them."""
        super().calculate(atoms, properties, system_changes)
        key = hashlib.sha256(f"{self._settings} {_geometry(self.atoms)}".encode()).hexdigest()
        path = self._stem.with_name(f"{self._stem.name}_{key[:12]}.json")
        if not path.exists():
            with replacing(path) as part:
                part.write_text(json.dumps(self._computed(self.atoms)), encoding="utf-8")
        found = json.loads(path.read_text(encoding="utf-8"))
        self.results = found | {"forces": np.array(found["forces"])}

    def _computed(self, atoms: Atoms) -> dict:
        self._inner = self._inner or self._make()
        started, working = time.perf_counter(), atoms.copy()
        working.calc = self._inner
        found = {
            "free_energy": float(working.get_potential_energy(force_consistent=True)),
            "energy": float(working.get_potential_energy()),
            "forces": working.get_forces().tolist(),
        }
        volume, energy = (x / len(atoms) for x in (atoms.get_volume(), found["free_energy"]))
        progress.line(
            f"{self._stem.name}: {len(atoms)} atoms, {volume:.2f} Angstrom^3/atom, "
            f"{energy:.4f} eV/atom, {time.perf_counter() - started:.0f} s"
        )
        return found


def _geometry(atoms: Atoms) -> str:
    """Elements, cell and positions to 1e-7 Angstrom."""
    rounded = np.round(np.vstack([atoms.cell.array, atoms.positions]), 7) + 0.0
    return f"{atoms.numbers.tolist()} {rounded.tolist()}"


def physics(
    folder: Path,
    levels: Mapping[str, Level] = LEVELS,
    protocol: CrystalProtocol = crystals.PROTOCOL,
    make: Maker = calculator,
) -> xr.Dataset:
    """Crystals and vacancy by DFT, at the settings of the labels and converged.

    ``folder`` holds finished calculations, a file each.

    Returns
    -------
    xr.Dataset
        :func:`kdlib.md.crystals.properties` over ``settings``; ``volume(ratio)`` is common to all;
        ``cutoff``, ``kpoint_density`` and ``smearing`` are those of the small cells.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = [
        crystals.properties(_calculators(folder, name, level, make), protocol)
        for name, level in levels.items()
    ]
    meaning = {"long_name": "numerical settings of the DFT"}
    index = xr.Variable("settings", list(levels), meaning)
    ds = xr.concat([one.drop_vars("volume") for one in found], index, combine_attrs="override")
    return ds.assign(volume=found[0].volume, **_told(levels))


def _calculators(folder: Path, name: str, level: Level, make: Maker) -> crystals.Calculators:
    def calculators(like: Atoms) -> Stored:
        structure = like.info["structure"]
        settings = level.vacancy if structure == crystals.VACANCY else level.crystals
        copies = level.supercells.get(structure, ITSELF)
        return Stored(
            lambda: make(settings, like, copies),
            folder / f"{name}_{structure}",
            f"{settings} {copies} {_geometry(like)}",
        )

    return calculators


def _told(levels: Mapping[str, Level]) -> dict[str, tuple]:
    about = {
        "cutoff": ("eV", "cutoff of the plane waves"),
        "kpoint_density": ("Angstrom", "k-points of the crystals per 1/Angstrom"),
        "smearing": ("eV", "Fermi-Dirac width"),
    }
    return {
        name: (
            "settings",
            [getattr(level.crystals, name) for level in levels.values()],
            {"units": unit, "long_name": meaning},
        )
        for name, (unit, meaning) in about.items()
    }


def accuracy(
    folder: Path,
    n_frames: int = 10,
    compute: Sequence[str] = tuple(quality.VARIANTS),
) -> xr.Dataset:
    """Compare the labels of ``n_frames`` shipped frames with tighter settings.

    Parameters
    ----------
    folder
        Holds finished calculations, a file each.
    compute
        Keys of :data:`al_pbe.quality.VARIANTS` to compute, one after the other. The others are
        read if they are finished.
    """
    frames = quality.chosen(datasets.load("al-pbe"), n_frames)
    return quality.accuracy(frames, folder, compute=compute)


def store(name: str, ds: xr.Dataset, folder: Path = DATA) -> Path:
    """Save a record, a key of RECORDS, beside the dataset; accuracy goes to its card, too."""
    if name not in RECORDS:
        raise InputError(f"{name}: none of the records {', '.join(RECORDS)}")
    programs = versions() if find_spec("gpaw") else {}
    about = {f"{program}_version": version for program, version in programs.items()}
    told = {"accuracy": quality.sentence(ds)} if name == "accuracy" else {}
    path = results.save(ds, folder / RECORDS[name], kind="series", **about)
    if told:
        card = folder / "al-pbe.json"
        with replacing(card) as part:
            part.write_text(
                json.dumps(json.loads(card.read_text(encoding="utf-8")) | told, indent=1) + "\n",
                encoding="utf-8",
            )
    return path
