"""What ``pair_style hipnn`` refuses, how it is compiled, and who takes it."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from in_lammps import MODELS, PLUGIN, Lammps, Model, crystal

from kdlib import hipnn
from kdlib.errors import InputError
from kdlib.md import lammps
from kdlib.md.lammps import box, pairstyle, program


def refused(model: Model, atoms: Atoms, *lines: str) -> str:
    """What LAMMPS says instead of running, in one sentence."""
    with pytest.raises(Exception, match="hipnn") as error, Lammps(model, atoms) as ours:
        ours.run(*lines, "run 0")
    return str(error.value).splitlines()[0]


def altered(model: Model, folder: Path, **changes: object) -> Model:
    """A copy of a model with other entries in its configuration."""
    shutil.copytree(model.folder, folder)
    record = json.loads((folder / "config.json").read_text())
    record["hipnn"] |= changes
    (folder / "config.json").write_text(json.dumps(record))
    return Model(folder, model.precision)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"l_max": 2}, "l_max 2, and the pair style covers l_max 0 and 1"),
        ({"n_interaction_layers": 2}, "several interaction layers, and the pair style covers one"),
        ({"n_sensitivities": 9}, "sensitivity.mu does not fit config.json"),
        ({"n_features": 15}, "does not fit config.json"),
        ({"n_atom_layers": 2}, "tensor network.blocks.0.2.base_layer.weight is missing"),
        ({"n_atom_layers": 0}, "holds more atom layers than config.json"),
        ({"cutoff": "wide"}, "'cutoff' is not a number"),
        ({"cutoff": -1}, "the cutoff is not a positive length"),
        ({"l_max": 0.5}, "'l_max' is not a whole number"),
    ],
)
def test_other_models_are_refused_with_the_reason(saved, tmp_path, changes, reason):
    """A model that is not covered, or does not fit its configuration, is one error."""
    model = altered(saved("student"), tmp_path / "other", **changes)
    assert reason in refused(model, crystal())


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("model.safetensors", lambda b: b[: len(b) // 2], "truncated"),
        ("model.safetensors", lambda b: b[:6], "truncated"),
        ("model.safetensors", lambda b: b"\xff" * 8 + b[8:], "truncated"),
        ("model.safetensors", lambda b: b[:8] + b"[" + b[9:], "unreadable header"),
        ("model.safetensors", lambda b: b[:-8] + struct.pack("d", np.nan), "is not finite"),
        ("model.safetensors", lambda b: b"", "no such model file"),
        ("config.json", lambda b: b[: len(b) // 2], "config.json is not that of a kdlib model"),
        ("config.json", lambda b: b"[" * 10000, "config.json is not that of a kdlib model"),
        ("config.json", lambda b: b"{}", "'hipnn' is missing"),
    ],
)
def test_a_damaged_model_is_one_error(saved, tmp_path, file, change, reason):
    """Truncated and altered files are refused by name."""
    model = altered(saved("student"), tmp_path / "damaged")
    path = model.folder / file
    path.write_bytes(change(path.read_bytes()))
    assert reason in refused(model, crystal())


def test_an_unfinished_training_is_refused(saved, tmp_path):
    """Beside a checkpoint the weights are not those that the training will end with."""
    model = altered(saved("student"), tmp_path / "unfinished")
    (model.folder / "checkpoint.safetensors").write_bytes(b"weights")
    assert "is not finished" in refused(model, crystal())


def test_what_the_pair_style_cannot_do_is_refused(saved):
    """Unknown elements and precisions are one sentence each."""
    model, atoms = saved("alloy"), crystal()
    assert "element Au is unknown to a model of Cu, Al, Ag" in refused(
        model, atoms, f"pair_coeff * * {model.folder} Au"
    )
    assert "unknown precision 'half'" in refused(model, atoms, "pair_style hipnn half")


@pytest.mark.parametrize(
    ("first", "reason"),
    [("units real", "works in units metal .* not real"), ("newton off", "needs newton on")],
)
def test_other_settings_are_refused(saved, first, reason):
    """Other units would mistake the energies; without newton nobody gets the forces on ghosts."""
    instance = box.start()
    for line in (
        "units metal", first, "region box block 0 5 0 5 0 5", "create_box 1 box", "mass 1 27",
        *pairstyle.commands(PLUGIN), f"pair_coeff * * {saved('student').folder} Al",
    ):  # fmt: skip
        instance.command(line)
    with pytest.raises(Exception, match=reason):
        instance.command("run 0")
    instance.close()


def test_a_plugin_for_another_lammps_is_one_error(tmp_path):
    """The layout of LAMMPS's classes may have changed: nothing is registered."""
    here = str(program.about(program.of_package()).version).encode()
    assert here in PLUGIN.read_bytes()
    (tmp_path / "other.so").write_bytes(PLUGIN.read_bytes().replace(here, b"20240829"))
    (tmp_path / "in.try").write_text("plugin load ./other.so\npair_style hipnn\n")
    found = program.of_package()
    done = subprocess.run(
        [found.executable, "-in", "in.try", "-log", "none"], cwd=tmp_path, env=found.environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "was compiled for LAMMPS 20240829" in done.stdout + done.stderr


def test_without_a_compiler_one_sentence_says_what_to_install(monkeypatch, tmp_path):
    """The Debian package is named, and that `fix external` remains."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"\(Debian: g\+\+\).*fix external"):
        pairstyle.build()
    assert not list(tmp_path.rglob("*.so"))


def test_another_lammps_is_named_by_its_folder():
    """The folder above `bin` means its program; what is compiled for it already is found."""
    if not (Path(sys.prefix) / "bin" / "lmp").is_file():
        pytest.skip("LAMMPS is not in this environment")
    assert pairstyle.build(sys.prefix) == PLUGIN


def test_strings_are_those_of_the_compiler_of_lammps(tmp_path):
    """Wheels for manylinux2014 have strings as before C++11, which the names of functions tell."""
    usual = pairstyle._command(program.of_package())
    for name in ("bin/lmp", "lib/liblammps.so", "include/lammps/pair.h"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "bin" / "lmp").write_text(
        "#!/bin/sh\necho Large-scale Atomic/Molecular Massively Parallel Simulator - 29 Aug 2024\n"
    )
    (tmp_path / "bin" / "lmp").chmod(0o755)
    (tmp_path / "include" / "mpi.h").write_bytes(b"")
    other = program.find(tmp_path)
    option = "-D_GLIBCXX_USE_CXX11_ABI=0"
    assert option not in [*usual, *pairstyle._command(other)]
    (tmp_path / "lib" / "liblammps.so").write_bytes(b"..._ZN9LAMMPS_NS5Error3allERKSsiS2_...")
    assert option in pairstyle._command(other)


def test_a_plugin_that_cannot_be_opened_says_why(tmp_path):
    """LAMMPS goes on after that, and fails at the next line."""
    source, plugin = tmp_path / "nothing.cpp", tmp_path / "nothing.so"
    source.write_text("void missing(); void (*here)() = missing;")
    subprocess.run(["g++", "-shared", "-fPIC", source, "-o", plugin], check=True)
    with pytest.raises(InputError, match=r"does not load .*undefined symbol: _Z7missingv"):
        pairstyle._try(program.of_package(), plugin)


def test_what_does_not_compile_leaves_nothing_behind(monkeypatch, tmp_path):
    """The file appears whole or not at all."""
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(pairstyle, "OPTIONS", ("-std=gnu++17", "--no-such-option"))
    with pytest.raises(InputError, match="cannot compile pair_style hipnn: .*no-such-option"):
        pairstyle.build()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["a b", "a#b", "$a", "a&", "it's", 'a"b', '"it\'s"!'])
def test_a_model_may_lie_in_any_folder(saved, tmp_path, name):
    """LAMMPS neither divides nor replaces a part of the folder's name."""
    model, atoms = saved("student"), crystal()
    shutil.copytree(model.folder, tmp_path / name)
    calculator = hipnn.load(tmp_path / name).calculator(device="cpu")
    with lammps.Driver(calculator, atoms, forces_by="pair_style hipnn") as driver:
        energy = float(driver.run(0).potential_energy[-1]) * len(atoms)
    atoms.calc = calculator
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)


def test_the_driver_takes_the_pair_style_for_saved_models(saved, monkeypatch):
    """It is chosen where it is compiled and covers the calculator, and the series says so."""
    model, atoms = saved("student"), crystal()
    unsaved = hipnn.Potential(hipnn.build(MODELS["student"])).calculator(device="cpu")
    stock = hipnn.load(model.folder).calculator(device="cpu", backend="hippynn")
    choices = {
        "pair_style hipnn": [model.calculator()],
        "fix external": [unsaved, stock],
    }
    for chosen, calculator in ((name, one) for name, all_ in choices.items() for one in all_):
        with lammps.Driver(calculator, atoms) as driver:
            assert driver.forces_by == chosen
    with pytest.raises(InputError, match="does not cover this HipnnCalculator"):
        lammps.Driver(unsaved, atoms, forces_by="pair_style hipnn")
    with pytest.raises(InputError, match="forces_by is 'magic', must be"):
        lammps.Driver(unsaved, atoms, forces_by="magic")
    monkeypatch.setattr(pairstyle, "built", lambda _: None)
    with lammps.Driver(model.calculator(), atoms) as driver:
        assert driver.forces_by == "fix external"
    with pytest.raises(InputError, match="has not been compiled; run kdlib lammps build"):
        lammps.Driver(model.calculator(), atoms, forces_by="pair_style hipnn")
