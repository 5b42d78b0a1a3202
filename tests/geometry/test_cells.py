"""Cells around a structure."""

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from kdlib import datasets
from kdlib.distill.sampling import structures
from kdlib.errors import InputError
from kdlib.geometry import cells
from kdlib.geometry.cells import closest_pair, half_open


@pytest.mark.parametrize(
    ("given", "n_atoms"),
    [
        (bulk("Cu"), 32),
        (bulk("Fe"), 54),
        (bulk("Mg"), 36),
        (bulk("NaCl", "rocksalt", a=5.64), 64),
        (bulk("Cu", cubic=True), 108),
    ],
)
def test_supercell_is_the_same_crystal_and_nearly_cubic(given, n_atoms):
    """Density and closest pair stay; the number is near; no height is short."""
    found = cells.supercell(given, n_atoms)
    assert 0.7 * n_atoms <= len(found) <= 1.35 * n_atoms
    assert found.get_volume() / len(found) == pytest.approx(given.get_volume() / len(given))
    assert closest_pair(found).distance == pytest.approx(closest_pair(given).distance)
    heights = 1 / np.linalg.norm(np.linalg.inv(found.cell.array), axis=0)
    assert heights.min() > 0.8 * found.get_volume() ** (1 / 3)


def test_primitive_fcc_becomes_the_cubic_cell():
    """32 atoms of fcc copper are 2 x 2 x 2 cubes."""
    found = cells.supercell(bulk("Cu"), 32)
    np.testing.assert_allclose(found.cell.lengths(), 2 * bulk("Cu", cubic=True).cell.lengths())
    np.testing.assert_allclose(found.cell.angles(), 90)


def test_deformed_has_the_volume_asked_for():
    """Strain and rattle leave the volume at exactly the given multiple."""
    base = cells.supercell(bulk("Cu"), 32)
    found = cells.deformed(base, 1.17, 0.05, 0.1, np.random.default_rng(0))
    assert found.get_volume() == pytest.approx(1.17 * base.get_volume(), rel=1e-12)
    assert not np.allclose(found.cell.angles(), 90, atol=0.5)


def test_exchange_brings_like_atoms_together_and_keeps_the_composition():
    """The composition stays; sodium then meets sodium at the contact distance of the crystal."""
    base = cells.supercell(bulk("NaCl", "rocksalt", a=5.64), 64)
    found = cells.exchanged(base, 1, np.random.default_rng(0))
    assert (found.numbers != base.numbers).sum() == 2
    assert found.symbols.formula.count() == base.symbols.formula.count()
    assert closest_like_pair(base) == pytest.approx(5.64 / np.sqrt(2))
    assert closest_like_pair(found) == pytest.approx(5.64 / 2)


def test_exchange_leaves_an_element_alone():
    """There is nothing to exchange."""
    base = cells.supercell(bulk("Cu"), 32)
    assert cells.exchanged(base, 3, np.random.default_rng(0)) == base


def test_pressed_pair_has_the_distance_asked_for():
    """The center of the pair stays, all other atoms too, and every kind of pair has its turn."""
    base = cells.supercell(bulk("NaCl", "rocksalt", a=5.64), 64)
    kinds = set()
    for seed in range(60):
        found = cells.pressed(base, 1, (2.0, 2.1), np.random.default_rng(seed))
        pair = np.flatnonzero((found.positions != base.positions).any(1))
        assert 2.0 <= found.get_distance(*pair, mic=True) <= 2.1
        np.testing.assert_allclose(found.positions.mean(0), base.positions.mean(0), atol=1e-12)
        kinds.add("".join(sorted(found.symbols[pair])))
        assert len(pair) == 2
    assert kinds == {"NaNa", "ClNa", "ClCl"}


def test_bare_copy_keeps_the_geometry_alone():
    """Species, positions, cell and periodicity stay; velocities, labels and notes do not."""
    atoms = bulk("Cu")
    atoms.info["frame"], atoms.calc = 3, EMT()
    atoms.set_momenta([[1.0, 0.0, 0.0]])
    copy = cells.bare(atoms)
    assert copy == bulk("Cu")
    assert (copy.info, copy.calc, copy.has("momenta")) == ({}, None, False)
    copy.positions += 1.0
    np.testing.assert_array_equal(atoms.positions, 0.0)


def test_pairs_beyond_a_range_are_not_looked_for():
    """Copper's neighbors are 2.55 Angstrom apart, whatever range they are found in."""
    atoms = bulk("Cu", a=2.55 * np.sqrt(2))
    assert closest_pair(atoms, within=2.5).distance == np.inf
    for within in (2.6, 4.0, np.inf):
        assert closest_pair(atoms, within=within).distance == pytest.approx(2.55)


@pytest.mark.parametrize(
    ("copies", "shape"), [(1, (1, 1, 1)), (8, (2, 2, 2)), (12, (2, 2, 3)), (96, (4, 4, 6))]
)
def test_tile_is_nearly_a_cube(copies, shape):
    """Copies are laid out as evenly as their number allows, at the same density."""
    block = bulk("Al", cubic=True)
    tiled = cells.tile(block, 4 * copies)
    np.testing.assert_allclose(np.sort(tiled.cell.lengths() / block.cell.lengths()), shape)
    assert len(tiled) == 4 * copies


def test_tile_needs_a_multiple():
    """A number of atoms that copies cannot make is refused."""
    with pytest.raises(InputError, match="10 atoms are not a multiple of a cell of 4 atoms"):
        cells.tile(bulk("Al", cubic=True), 10)


#: Magnetic moment and charge of each species.
MOMENT, CHARGE = {"Ni": 0.6, "Al": -0.1}, {"Ni": -0.5, "Al": 0.5}


def magnet():
    """A compound whose moments and charges belong to its species."""
    atoms = bulk("NiAl", "cesiumchloride", a=2.88)
    atoms.set_initial_magnetic_moments([MOMENT[s] for s in atoms.symbols])
    atoms.set_initial_charges([CHARGE[s] for s in atoms.symbols])
    atoms.set_tags([1, 2])
    atoms.set_masses([60.0, 30.0])
    return atoms


def test_states_of_atoms_stay_with_them():
    """In supercells, deformed cells and after exchanges, moment, charge and tag fit the species."""
    rng = np.random.default_rng(0)
    ordered = cells.supercell(magnet(), 16)
    atoms = cells.exchanged(ordered, 6, rng)
    atoms = cells.pressed(cells.deformed(atoms, 1.1, 0.02, 0.05, rng), 3, (1.9, 2.1), rng)
    assert list(atoms.symbols) != list(ordered.symbols)
    assert atoms.get_initial_magnetic_moments().tolist() == [MOMENT[s] for s in atoms.symbols]
    assert atoms.get_initial_charges().tolist() == [CHARGE[s] for s in atoms.symbols]
    assert atoms.get_tags().tolist() == [{"Ni": 1, "Al": 2}[s] for s in atoms.symbols]


def test_an_energy_may_depend_on_all_that_a_configuration_is():
    """Each of these makes another one; velocities, notes and the sign of zero do not."""
    base = magnet() * (1, 1, 2)
    names = ("species", "position", "cell", "pbc", "moment", "note")
    changed = {name: base.copy() for name in names}
    changed["species"].numbers[0] = 27
    changed["position"].positions[1, 2] += 1e-4
    changed["cell"].cell[0, 0] += 1e-4
    changed["pbc"].pbc = [True, True, False]
    changed["moment"].arrays["initial_magmoms"][0] = 0.7
    changed["order"] = base[[1, 0, 2, 3]]
    changed["note"].info["charge"] = 1
    for name, atoms in changed.items():
        assert not cells.same(base, atoms), name
    assert len({cells.digest(atoms) for atoms in (base, *changed.values())}) == 8
    equal = base.copy()
    equal.set_momenta(np.ones((4, 3)))
    equal.info["note"] = "again"
    equal.positions[0] = -0.0
    assert cells.digest(equal) == cells.digest(base)
    equal.positions += 3e-9
    assert cells.same(equal, base)


def test_what_no_energy_depends_on_is_not_copied():
    """Velocities, labels, notes and masses are dropped, and arrays of zeros are none."""
    atoms = magnet()
    atoms.set_momenta(np.ones((2, 3)))
    atoms.info = {"charge": 1, "note": "relaxed"}
    atoms.set_tags([0, 0])
    copy = cells.unlabeled(atoms)
    assert set(copy.arrays) == {"numbers", "positions", "initial_magmoms", "initial_charges"}
    assert copy.info == {"charge": 1}
    assert cells.states(atoms) == ["magnetic moments", "charges"]
    copy.arrays["initial_magmoms"][:] = 7
    assert atoms.get_initial_magnetic_moments().max() < 1


@pytest.mark.parametrize(("key", "value"), [("charge", 1), ("spin", 3), ("total_charge", -0.5)])
def test_a_charge_of_the_whole_cell_is_refused(key, value, tmp_path):
    """Cells of other sizes are sampled, so a charged cell has no meaning; a neutral one has."""
    path, atoms = tmp_path / "cell.xyz", bulk("Cu")
    for number in (0, value):
        atoms.info[key] = number
        ase.io.write(path, atoms, format="extxyz")
        if number:
            with pytest.raises(InputError, match=rf"cell\.xyz: has a {key} of {value}"):
                structures([str(path)])
        else:
            assert structures([str(path)])


def closest_like_pair(atoms):
    """Smallest distance between two atoms of the same species, Angstrom."""
    like = atoms.numbers[:, None] == atoms.numbers
    distances = atoms.get_all_distances(mic=True)
    return distances[like & ~np.eye(len(atoms), dtype=bool)].min()


@pytest.mark.parametrize("open_axes", [(0,), (1,), (2,), (0, 1), (1, 2)])
@pytest.mark.parametrize("missing", [False, True], ids=["cell", "cell vectors missing"])
def test_the_advice_on_half_open_cells_helps(open_axes, missing):
    """What the message tells to do makes a periodic cell with 20 Angstrom of vacuum."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    inside, extent = atoms.get_all_distances(mic=False), np.ptp(atoms.positions, axis=0)
    for axis in open_axes:
        atoms.pbc[axis] = False
        atoms.cell[axis] *= not missing
    _, advice = half_open(atoms).split(" give it vacuum by ")
    exec(advice, {"atoms": atoms})
    assert half_open(atoms) == ""
    assert atoms.pbc.all()
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    np.testing.assert_allclose(heights[list(open_axes)], extent[list(open_axes)] + 20)
    np.testing.assert_allclose(atoms.get_all_distances(mic=False), inside)


@pytest.mark.parametrize("periodic", [True, False])
def test_cells_and_molecules_are_not_half_open(periodic):
    """Periodicity along all vectors, or along none, breaks no rule."""
    atoms = bulk("Cu", cubic=True)
    atoms.pbc = periodic
    assert half_open(atoms) == ""


def test_faults_of_structures_name_the_file(tmp_path):
    """Missing, unreadable, not periodic, overlapping: each is one clear error."""
    with pytest.raises(InputError, match=r"nothing\.cif: neither a file nor an element"):
        structures(["nothing.cif"])
    broken = tmp_path / "broken.cif"
    broken.write_text("data_\n_cell_length_a x\n")
    with pytest.raises(InputError, match=r"broken\.cif: ASE cannot read it"):
        structures([str(broken)])
    molecule = tmp_path / "molecule.xyz"
    ase.io.write(molecule, bulk("Cu").repeat(2) * 1, format="xyz")
    with pytest.raises(InputError, match=r"molecule\.xyz: is not periodic"):
        structures([str(molecule)])
    overlapping = tmp_path / "overlap.extxyz"
    atoms = bulk("Cu").repeat((2, 1, 1))
    atoms.positions[1] = atoms.positions[0] + 0.1
    ase.io.write(overlapping, atoms)
    with pytest.raises(InputError, match="closer than 0.5"):
        structures([str(overlapping)])


#: A salt whose sodium sites hold this content.
SALT = """data_salt
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
_space_group_IT_number 225
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cl1 Cl 0.5 0.5 0.5 1.0
"""


@pytest.mark.parametrize(
    ("sodium", "words"),
    [
        (["Na1 Na 0 0 0 0.7", "K1 K 0 0 0 0.3"], r"atom 4 \(Na\) is .* \(Na 0.7, K 0.3\)"),
        (["Na1 Na 0 0 0 0.8"], r"atom 4 \(Na\) is .* \(Na 0.8\)"),
        (["Na1 Na 0 0 0 1.0"], ""),
        (["Na1 Na 0 0 0 0.996(3)"], ""),
        (["Na1 Na 0 0 0 ?"], ""),
    ],
)
@pytest.mark.parametrize("name", ["salt.cif", "salt.xyz"])
@pytest.mark.filterwarnings("ignore:crystal system .* is not interpreted:UserWarning")
def test_a_site_that_is_no_whole_atom_is_named(sodium, words, name, tmp_path):
    """Mixed and partly empty sites are refused, also after ASE rewrote them; refined ones pass."""
    path = tmp_path / "salt.cif"
    path.write_text(SALT + "\n".join(sodium) + "\n")
    if name != path.name:
        ase.io.write(tmp_path / name, ase.io.read(path))
    if not words:
        (found,) = structures([str(tmp_path / name)])
        assert found.get_chemical_formula() == "Cl4Na4"
        return
    with pytest.raises(InputError, match=rf"salt\.{name[-3:]}: the site of {words}"):
        structures([str(tmp_path / name)])


@pytest.mark.parametrize(("share", "refused"), [(1.0, False), (0.995, False), (0.4, True)])
@pytest.mark.parametrize("key", ["occupancy", "occupancies"])
def test_shares_of_atoms_count_where_a_format_has_them(share, refused, key):
    """One atom of a smaller share is refused; zeros for all atoms were never written."""
    atoms = bulk("Cu", cubic=True)
    atoms.set_array(key, np.zeros(4))
    assert not cells.partly_occupied(atoms)
    atoms.set_array(key, np.array([1.0, 1.0, share, 1.0]))
    assert cells.partly_occupied(atoms).startswith("the site of atom 2 (Cu)" if refused else "")
    assert bool(cells.partly_occupied(atoms)) == refused


STRANGE = {
    "tags": ["a", "b", "c", "d"],
    "initial_magmoms": [[1.0] * 4] * 4,
    "initial_charges": [np.nan, 0, 0, 0],
    "occupancy": ["half"] * 4,
    "occupancies": [[0.5, 0.5]] * 4,
}


@pytest.mark.parametrize("name", STRANGE)
def test_arrays_that_cannot_be_what_their_name_says_are_named(name, tmp_path):
    """Text, tables and NaN as states of atoms or occupancies are refused, also among own data."""
    atoms, path = bulk("Cu", cubic=True), tmp_path / "copper.extxyz"
    atoms.arrays[name] = np.array(STRANGE[name])
    ase.io.write(path, atoms)
    for read in (lambda: structures([str(path)]), lambda: datasets.load(path)):
        with pytest.raises(
            InputError, match=rf"copper\.extxyz: .*its '{name}' are not finite numbers"
        ):
            read()


@pytest.mark.parametrize("shares", [0.5, {"Cu": 0.5}])
def test_a_share_without_an_element_is_one(shares):
    """The kind of a site may have the bare number of its occupancy."""
    atoms = bulk("Cu", cubic=True)
    atoms.info["occupancy"] = {"0": shares}
    assert cells.partly_occupied(atoms).startswith("the site of kind 0 is partly occupied")


def test_dummy_atoms_are_no_crystal(tmp_path):
    """X marks a vacancy; a pair potential would have labeled it like any atom."""
    atoms, path = bulk("Cu", cubic=True), tmp_path / "vacancy.traj"
    atoms.numbers[0] = 0
    ase.io.write(path, atoms)
    with pytest.raises(InputError, match=r"vacancy\.traj: holds the dummy atom X"):
        structures([str(path)])


def test_an_element_is_its_crystal():
    """The word Cu is ASE's fcc copper."""
    (found,) = structures(["Cu"])
    np.testing.assert_allclose(found.cell.array, bulk("Cu").cell.array)


@pytest.mark.parametrize("n_cells", [2, (3, 1, 4)])
def test_repeated_cells_are_ase_s(n_cells):
    """Positions to rounding, which is that of BLAS; cell, species and velocities; oblique."""
    block = bulk("NaCl", "rocksalt", a=5.64)
    block.set_cell(block.cell.array @ [[1, 0.2, 0.1], [0, 0.9, 0.3], [0.1, 0, 1.2]], True)
    block.rattle(0.1, seed=2)
    block.set_momenta([[1, 2, 3], [4, 5, 6]])
    ours, ases = cells.repeated(block, n_cells), block.repeat(n_cells)
    np.testing.assert_allclose(ours.positions, ases.positions, rtol=0, atol=1e-13)
    ours.positions = ases.positions
    assert ours == ases
    np.testing.assert_array_equal(ours.get_momenta(), ases.get_momenta())
