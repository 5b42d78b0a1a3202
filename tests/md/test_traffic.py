"""What ranks of LAMMPS exchange, on paper, against LAMMPS itself."""

from pathlib import Path

import pytest

from kdlib.errors import InputError
from kdlib.md.lammps import box, traffic
from kdlib.md.liquid import density

#: The potentials of `kdlib bench`: cutoff and skin, Angstrom.
REACHES = {"eam/alloy": 10.1 + 1.0, "hipnn": 7.5 + 1.0}


@pytest.mark.parametrize(("cells", "reach"), [(8, 8.5), (5, 11.1), (3, 11.1), (2, 11.1)])
def test_ghosts_are_those_that_lammps_counts(cells, reach):
    """A rank sees the images of a periodic cube as it sees its neighbors' atoms, to 2 % of all."""
    try:
        lammps = box.start()
    except InputError as reason:
        pytest.skip(str(reason))
    n_atoms, constant = 4 * cells**3, (4 / density()) ** (1 / 3)
    for line in (
        f"units metal\nboundary p p p\natom_style atomic\nlattice fcc {constant}",
        f"region all block 0 {cells} 0 {cells} 0 {cells}\ncreate_box 1 all\ncreate_atoms 1 box",
        "displace_atoms all random 2 2 2 1",
        f"mass 1 27.0\npair_style zero {reach - 1.0}\npair_coeff * *\nneighbor 1.0 bin\nrun 0",
    ):
        lammps.commands_string(line)
    counted = lammps.extract_setting("nghost")
    lammps.close()
    expected = traffic.traffic("hipnn", n_atoms, density(), reach).ghosts
    assert expected == pytest.approx(counted, abs=0.02 * (n_atoms + counted))


def test_large_ranks_exchange_their_surface():
    """Six faces of depth R: ghosts grow as the square of the side."""
    n, reach = 1e9, 8.5
    found = traffic.traffic("hipnn", n, density(), reach)
    side = (n / density()) ** (1 / 3)
    assert found.ghosts == pytest.approx(6 * density() * side**2 * reach, rel=0.02)
    assert found.messages == 2 * 6
    assert traffic.traffic("hipnn", 4, density(), reach).messages == 2 * 6 * 2


def test_at_one_reach_embedded_atoms_exchange_a_third_more():
    """Eight numbers for each ghost instead of six, in twice as many rounds."""
    eam, ours = (traffic.traffic(style, 4000, density(), 8.5) for style in traffic.ROUNDS)
    assert eam.kilobytes / ours.kilobytes == pytest.approx(8 / 6)
    assert (eam.ghosts, eam.messages) == (ours.ghosts, 2 * ours.messages)


def test_readme_shows_the_exchange(project: Path):
    """Its table is computed for the potentials of the benchmark, at the liquid's density."""
    text = (project / "README.md").read_text()
    assert traffic.table(REACHES, (500, 4000, 32000), density()) in text
