"""ANI-Al from the address to the frames, and all errors on the way."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.units import Hartree

from kdlib import datasets
from kdlib.__main__ import main
from kdlib.datasets import ani_al, registry
from kdlib.errors import InputError


@pytest.fixture
def archive(
    tmp_path: Path, dimers: list[Atoms], write_h5: Callable[..., Path], pack: Callable[..., bytes]
) -> bytes:
    """Archive of the dimers in two files, with what some systems put beside them."""
    first = write_h5(tmp_path / "data-1.h5", dimers[:70])
    second = write_h5(tmp_path / "data-2.h5", dimers[70:])
    return pack(
        {
            "./data/data-2.h5": second.read_bytes(),
            "./data/data-1.h5": first.read_bytes(),
            "./data/._data-1.h5": b"not HDF5",
            "./data/README": b"text",
        }
    )


def test_the_card_expects_the_published_file():
    """Address and git blob id are those of Al-data.tgz in atomistic-ml/ani-al."""
    card = registry.entry("ani-al")
    assert card["path"] == "atomistic-ml/ani-al/HEAD/data/Al-data.tgz"
    assert card["git_blob"] == "3727a1dde143e1a1b3b4dbe7d863adafe66a8c2b"


def test_from_address_to_frames(archive, server, serve, dimers, capsys):
    """The command downloads once; energies (eV) and forces come back; it cites and warns."""
    serve(archive)
    assert main(["fetch", "ani-al"]) == 0
    said = capsys.readouterr().out
    assert server.asked == ["/atomistic-ml/ani-al/HEAD/data/Al-data.tgz"]
    assert "doi:10.1038/s41467-021-21376-0" in said
    assert "licence: none stated" in said
    assert "100% of the 10 closest pairs" in said
    frames = datasets.load("ani-al")
    assert len(frames) == len(dimers)
    for old, new in zip(dimers, frames, strict=True):
        energy = old.calc.results["energy"]
        assert new.get_potential_energy() == pytest.approx(energy, rel=1e-12)
        np.testing.assert_allclose(new.get_forces(), old.calc.results["forces"], atol=1e-5)
        np.testing.assert_allclose(new.positions, old.positions, atol=1e-5)
        np.testing.assert_allclose(new.cell.array, old.cell.array)
        assert new.pbc.all()
    assert datasets.identity(frames[0]) == "data-1/Al002/0"
    assert len({datasets.identity(atoms) for atoms in frames}) == len(frames)
    split = datasets.split(frames)
    assert sum(len(getattr(split, part)) for part in datasets.PARTS) == len(frames)


def test_second_run_asks_nobody(archive, server, serve):
    """A cached file is not downloaded again, and no archive or partial file is left."""
    serve(archive)
    datasets.fetch("ani-al")
    datasets.fetch("ani-al")
    assert len(server.asked) == 1
    assert [path.name for path in ani_al.folder().parent.iterdir()] == [ani_al.folder().name]


def test_cut_connection_leaves_nothing(archive, server, serve):
    """Half a file is an error that names the address; the next attempt gets all of it."""
    serve(archive)
    server.cut = True
    with pytest.raises(InputError, match=rf"{server.url}/.*Al-data\.tgz: download failed"):
        datasets.fetch("ani-al")
    assert not list(ani_al.folder().parent.glob("*"))
    server.cut = False
    assert "frames       120" in datasets.fetch("ani-al")


def test_nobody_there_is_an_input_error(server):
    """A refused connection is one clear error, too."""
    with pytest.raises(InputError, match="download failed"):
        datasets.fetch("ani-al", base_url="http://127.0.0.1:9")


def test_other_content_is_refused(archive, server, serve):
    """One changed byte is another git blob: refused with its id, and nothing is kept."""
    serve(archive)
    half = len(archive) // 2
    server.content = archive[:half] + bytes([archive[half] ^ 1]) + archive[half + 1 :]
    with pytest.raises(InputError, match="not the expected file, its git blob id is [0-9a-f]{40}"):
        datasets.fetch("ani-al")
    assert not list(ani_al.folder().parent.glob("*"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sign", [1, -1])
def test_forces_repel_whatever_sign_they_are_stored_with(
    tmp_path, dimers, write_h5, sign, dtype, alloy
):
    """Gradients are reversed and the note says so; float64 survives to the last digits."""
    path = write_h5(tmp_path / "data.h5", dimers, sign, dtype)
    found = ani_al.read([path])
    (note,) = found.notes
    assert ("was reversed" in note) == (sign < 0)
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    for old, new in zip(dimers, found.frames, strict=True):
        np.testing.assert_allclose(
            new.calc.results["forces"], old.calc.results["forces"], rtol=0, atol=tolerance
        )
        assert new.positions.dtype == np.float64
        apart = new.positions[1] - new.positions[0]
        assert new.get_forces()[1] @ apart > 0


def test_sign_that_the_data_do_not_tell_is_refused(tmp_path, dimers, write_h5):
    """Forces of random direction are an error, not a guess."""
    random = np.random.default_rng(0).normal(size=(120, 1, 3)) * [[[1.0], [-1.0]]]
    path = write_h5(tmp_path / "data.h5", dimers, force=random)
    with pytest.raises(
        InputError, match=r"data\.h5: the sign of force is not clear, \d+% of the 10"
    ):
        ani_al.read([path])


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"force": None}, "has no 'force'"),
        ({"cell": None}, "has no 'cell'"),
        ({"force": np.zeros((120, 3, 3))}, r"force has shape \(120, 3, 3\), must be \(120, 2, 3\)"),
        ({"species": np.array([b"Al", b"Qq"])}, "unknown species 'Qq'"),
    ],
)
def test_broken_group_is_named(tmp_path, dimers, write_h5, changed, rule):
    """File, group and rule, for arrays that are missing or do not fit together."""
    path = write_h5(tmp_path / "data.h5", dimers, **changed)
    with pytest.raises(InputError, match=rf"data\.h5: group Al002:? {rule}"):
        ani_al.read([path])


def test_file_that_is_no_hdf5_is_named(tmp_path, dimers, write_h5):
    """Truncated files, text, and HDF5 of another layout are errors of the user's, by name."""
    path = write_h5(tmp_path / "data.h5", dimers)
    for content in (path.read_bytes()[:3000], b"text"):
        (tmp_path / "bad.h5").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.h5: not an HDF5 file in the layout"):
            ani_al.read([tmp_path / "bad.h5"])
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1.0
    with pytest.raises(InputError, match=r"other\.h5: not an HDF5 file in the layout"):
        ani_al.read([tmp_path / "other.h5"])


def test_before_the_download_the_command_is_named(server, capsys):
    """Loading says what to run; the card is there already."""
    with pytest.raises(InputError, match="ani-al: not downloaded yet, run: kdlib fetch ani-al"):
        datasets.load("ani-al")
    assert "ani-al" in datasets.names()
    assert main(["info", "ani-al"]) == 0
    card = capsys.readouterr().out
    assert "not downloaded yet: kdlib fetch ani-al" in card
    assert "10.1038/s41467-021-21376-0" in card
    assert server.asked == []


def test_card_after_the_download_counts_frames(archive, serve):
    """The card then says how many cells there are, and how the sign is known."""
    serve(archive)
    datasets.fetch("ani-al")
    card = datasets.card("ani-al")
    assert "120" in card
    assert "240 in cells of 2 to 2" in card
    assert "minus the gradient" in card


def test_file_altered_in_the_cache_is_refused(archive, serve):
    """One flipped byte in an unpacked file is an error that says what to do."""
    serve(archive)
    datasets.fetch("ani-al")
    path = ani_al.folder() / "data" / "data-1.h5"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"data-1\.h5: missing or altered .* remove"):
        datasets.load("ani-al")


def test_a_broken_frame_is_left_out_and_named(tmp_path, dimers, write_h5, pack, serve):
    """Users cannot fix these files: one bad frame in 120 is skipped aloud, two are an error."""
    frames = [atoms.copy() for atoms in dimers]
    for old, new in zip(dimers, frames, strict=True):
        new.calc = old.calc
    frames[17].positions[1] = frames[17].positions[0] + [0.3, 0, 0]
    path = write_h5(tmp_path / "data.h5", frames)
    serve(pack({"data.h5": path.read_bytes()}))
    said = datasets.fetch("ani-al")
    assert "left out: frame data/Al002/17, two atoms are 0.30 Angstrom apart" in said
    assert len(datasets.load("ani-al")) == 119


def test_two_broken_frames_in_a_hundred_are_refused(tmp_path, dimers, write_h5, pack, serve):
    """More than one bad frame in a hundred means that the reading is wrong."""
    energy = np.full(120, -5.0)
    energy[:2] = np.nan
    path = write_h5(tmp_path / "data.h5", dimers, energy=energy)
    serve(pack({"data.h5": path.read_bytes()}))
    rule = "2 frames break a rule; frame data/Al002/0: energy is not finite"
    with pytest.raises(InputError, match=rule):
        datasets.fetch("ani-al")


def test_fetch_of_what_ships_is_refused(capsys):
    """There is nothing to download for al-pbe; unknown names are refused as everywhere."""
    assert main(["fetch", "al-pbe"]) == 2
    assert "comes with the package" in capsys.readouterr().err


def test_hdf5_path_is_read_in_the_same_layout(tmp_path, dimers, write_h5):
    """A file of this layout can be named by its path; energies are converted from Hartree."""
    path = write_h5(tmp_path / "own.h5", dimers)
    with h5py.File(path) as file:
        stored = file["Al002/energy"][3]
    assert datasets.load(path)[3].get_potential_energy() == pytest.approx(stored * Hartree)
