"""Models that come with the package."""

import json

import numpy as np
import pytest

import kdlib
from kdlib import datasets, hipnn
from kdlib.__main__ import main
from kdlib.errors import InputError
from kdlib.hipnn import catalog


@pytest.fixture
def shipped(tmp_path, monkeypatch, small_config):
    """A catalog of one untrained model, al-tiny."""
    monkeypatch.setattr(catalog, "FOLDER", tmp_path / "models")
    module = hipnn.build(small_config, seed=1)
    hipnn.save(module, tmp_path / "models" / "al-tiny")
    card = {"title": "a tiny model", "data": "none", "errors": {"test": "large"}}
    (tmp_path / "models" / "al-tiny" / catalog.CARD).write_text(json.dumps(card))
    return hipnn.Potential(module)


def _energy(potential, atoms):
    return potential.predict([atoms]).energy.item()


def test_a_name_loads_a_model(shipped, crystal):
    """From any folder, with the weights that were saved."""
    assert catalog.names() == ["al-tiny"]
    assert _energy(kdlib.load("al-tiny"), crystal) == pytest.approx(_energy(shipped, crystal))


def test_an_own_folder_goes_before_a_name(shipped, crystal, small_config, tmp_path, monkeypatch):
    """What lies in the working directory is meant, as for every other path."""
    monkeypatch.chdir(tmp_path)
    own = hipnn.build(small_config, seed=2)
    hipnn.save(own, "al-tiny")
    found = _energy(kdlib.load("al-tiny"), crystal)
    assert found == pytest.approx(_energy(hipnn.Potential(own), crystal))
    assert abs(found - _energy(shipped, crystal)) > 1e-3


def test_a_card_tells_what_the_model_is(shipped, capsys):
    """`kdlib info` shows it, with the folder that LAMMPS wants, and lists the names."""
    assert main(["info", "al-tiny"]) == 0
    text = capsys.readouterr().out
    for words in ("a tiny model", "large", str(catalog.FOLDER / "al-tiny"), "load('al-tiny')"):
        assert words in text
    assert main(["info"]) == 0
    assert "models" in (text := capsys.readouterr().out)
    assert "al-tiny" in text


def test_another_name_is_no_model(shipped):
    """The message names the models that there are."""
    with pytest.raises(InputError, match=r"al-huge: no such .* that come with kdlib \(al-tiny\)"):
        kdlib.load("al-huge")


@pytest.mark.parametrize("name", catalog.names())
def test_the_errors_on_a_card_are_those_of_the_model(name):
    """Computed again from the weights that are shipped, on the frozen test part."""
    frames = datasets.load("al-pbe")
    test = [frames[k] for k in datasets.split(frames).test]
    potential = kdlib.load(name)
    predicted, sizes = potential.predict(test), np.array([len(atoms) for atoms in test])
    forces = np.concatenate([atoms.get_forces() for atoms in test])
    energies = np.array([atoms.get_potential_energy() for atoms in test])
    record = json.loads((catalog.FOLDER / name / catalog.CARD).read_text())
    force, energy = (float(part.split()[0]) for part in record["errors"]["test"].split(", "))
    found = np.sqrt(((predicted.forces - forces) ** 2).mean())
    np.testing.assert_allclose(found, force, atol=6e-4)
    found = 1e3 * np.sqrt((((predicted.energy - energies) / sizes) ** 2).mean())
    np.testing.assert_allclose(found, energy, atol=6e-2)
    assert potential.validity.closest["Al-Al"] < 2.0
