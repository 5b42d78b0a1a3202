"""Records are computed file by file; small k-point meshes represent those of supercells."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from al_pbe import labeling, packing, quality, records, sampling
from al_pbe.labeling import PRODUCTION, LabelSettings
from al_pbe.records import Stored
from kdlib import results
from kdlib.errors import InputError
from kdlib.md import crystals
from kdlib.md.crystals import CrystalProtocol

QUICK = CrystalProtocol(ratios=(0.90, 0.95, 1.0, 1.05, 1.10), vacancy_steps=3)
needs_gpaw = pytest.mark.skipif(find_spec("gpaw") is None, reason="needs GPAW: make dft")


class Counted:
    """Makes EMT in the place of DFT; may stop as if the process were killed."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.made, self.stop_after = [], stop_after

    def __call__(self, settings: LabelSettings, like: Atoms, copies: records.Copies) -> EMT:
        """Return a calculator and record its arguments."""
        if len(self.made) == self.stop_after:
            raise KeyboardInterrupt
        self.made.append((like.info["structure"], settings, copies))
        return EMT()


def physics(folder, make):
    return records.physics(folder, protocol=QUICK, make=make)


def test_physics_goes_on_from_where_it_was_stopped(tmp_path):
    """Killed and restarted, it computes each energy once, with equal results."""
    whole, part, rest = Counted(), Counted(stop_after=20), Counted()
    expected = physics(tmp_path / "whole", whole)
    with pytest.raises(KeyboardInterrupt):
        physics(tmp_path / "parts", part)
    xr.testing.assert_allclose(physics(tmp_path / "parts", rest), expected, rtol=0, atol=1e-12)
    assert len(part.made) + len(rest.made) == len(whole.made)
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert names == {path.name for path in (tmp_path / "parts").iterdir()}


def test_physics_is_that_of_the_crystals(tmp_path):
    """Results read from files are those of the calculator, for each of the settings."""
    ds = physics(tmp_path, Counted())
    direct = crystals.properties(lambda _: EMT(), QUICK)
    assert ds.settings.values.tolist() == ["label", "converged"]
    for settings in ("label", "converged"):
        found = ds.sel(settings=settings, drop=True)[list(direct)]
        xr.testing.assert_allclose(found, direct, rtol=1e-9)


def test_settings_reach_the_calculators(tmp_path):
    """Labels take the k-points of the frames' cells, converged crystals a dense mesh."""
    counted = Counted()
    ds = physics(tmp_path, counted)
    used = {(where, s.cutoff, s.kpoint_density): copies for where, s, copies in counted.made}
    assert used["fcc", 230.0, 3.5] == (2, 2, 2)
    assert used["bcc", 230.0, 3.5] == (4, 2, 2)
    assert used["fcc", 350.0, 12.0] == used["vacancy", 350.0, 6.0] == (1, 1, 1)
    assert used["vacancy", 230.0, 3.5] == (1, 1, 1)
    assert ds.kpoint_density.values.tolist() == [3.5, 12.0]


def test_other_settings_are_other_files(tmp_path):
    """An energy of one set of settings is never used for another."""
    for stem in ("a", "a", "b"):
        atoms = bulk("Al", cubic=True)
        atoms.calc = Stored(EMT, tmp_path / "fcc", stem)
        atoms.get_potential_energy()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("structure", crystals.STRUCTURES)
def test_supercells_are_the_cells_of_the_frames(structure):
    """Crystal times supercell is the cell in which frames of that phase are drawn."""
    rng = np.random.default_rng(1)  # hcp: the smaller of the two cells
    drawn = sampling._crystal(structure, False, rng)
    small = crystals.crystal(structure, drawn.get_volume() / len(drawn), CrystalProtocol())
    cell = small.repeat(records.SUPERCELLS[structure]).cell
    np.testing.assert_allclose(cell.lengths(), drawn.cell.lengths(), rtol=0.01)


def test_record_is_a_checked_result(tmp_path):
    """A stored record reads back as it was; an unknown name is refused."""
    ds = physics(tmp_path / "files", Counted())
    path = records.store("physics", ds, tmp_path)
    assert path.name == "al-pbe-physics.nc"
    xr.testing.assert_allclose(results.load(path, "series"), ds)
    with pytest.raises(InputError, match="none of the records"):
        records.store("weather", ds, tmp_path)


def test_accuracy_is_told_on_the_card(tmp_path):
    """The card of the dataset gets the sentence of its record; the rest of it stays."""
    shutil.copy(packing.DATA / "al-pbe.json", tmp_path)
    before = json.loads((tmp_path / "al-pbe.json").read_text())
    ds = records.accuracy(tmp_path / "files", compute=())
    with pytest.raises(InputError, match="no converged calculation is finished"):
        records.store("accuracy", ds, tmp_path)
    assert not (tmp_path / "al-pbe-accuracy.nc").exists()
    ds["force_difference"].loc[{"variant": "converged"}] = 0.0314
    ds["energy_difference"].loc[{"variant": "converged"}] = -0.0123
    records.store("accuracy", ds, tmp_path)
    after = json.loads((tmp_path / "al-pbe.json").read_text())
    assert after.pop("accuracy") != before.pop("accuracy")
    assert after == before
    assert quality.sentence(ds).startswith("10 frames against 350 eV, k-points of density 6 ")
    assert "0.031 eV/Angstrom rms" in quality.sentence(ds)
    assert "-12.3 meV/atom" in quality.sentence(ds)


def test_accuracy_without_computing_reads_what_is_there(tmp_path):
    """Ten shipped frames of every kind; with nothing finished or requested, all values are NaN."""
    ds = records.accuracy(tmp_path, compute=())
    kinds = {"bcc", "compressed", "fcc", "hcp", "liquid", "melting", "vacancy"}
    assert ds.sizes["frame"] == 10
    assert set(ds.phase.values.tolist()) == kinds
    assert np.isnan(ds.force_difference).all()


@needs_gpaw
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_crystal_at_folded_kpoints_is_the_supercell():
    """A cell of bcc with the folded k-points has the energy of two of them; with its own, not."""
    settings = replace(PRODUCTION, kpoint_density=1.5, cutoff=150.0)
    small = crystals.crystal("bcc", 16.5, CrystalProtocol())
    large = small.repeat((2, 1, 1))

    def energy(atoms: Atoms, copies: records.Copies = (1, 1, 1)) -> float:
        atoms = atoms.copy()
        atoms.calc = labeling.calculator(settings, atoms, copies)
        return atoms.get_potential_energy(force_consistent=True) / len(atoms)

    expected = energy(large)
    assert energy(small, (2, 1, 1)) == pytest.approx(expected, abs=1e-3)
    assert abs(energy(small) - expected) > 1e-2


@needs_gpaw
@pytest.mark.filterwarnings("default")
def test_kpoints_of_the_labels_cells():
    """2 pi 3.5 over the edges of the 32-atom cells: 3, 3, 3 (fcc), 2, 4, 4 (bcc), 4, 3, 3 (hcp)."""
    meshes = {"fcc": (6, 6, 6), "bcc": (8, 8, 8), "hcp": (8, 6, 6)}
    for structure, mesh in meshes.items():
        small = crystals.crystal(structure, 16.5, CrystalProtocol())
        grids = labeling._grids(PRODUCTION, small, records.SUPERCELLS[structure])
        assert grids["kpts"]["size"] == mesh


@pytest.mark.parametrize(
    ("flags", "kernels"),
    [("sse3 avx2 avx512f", "SkylakeX"), ("sse3 avx2", "Haswell"), ("sse3", None)],
)
def test_kernels_fit_the_processor(monkeypatch, tmp_path, flags, kernels):
    """The widest vectors that the processor has; what the user chose stays."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name\t: newer than its library\nflags\t\t: {flags}\n")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Zen")
    labeling.choose_kernels(cpuinfo)
    assert labeling.os.environ["OPENBLAS_CORETYPE"] == "Zen"
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    labeling.choose_kernels(cpuinfo)
    assert labeling.os.environ.get("OPENBLAS_CORETYPE") == kernels
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
