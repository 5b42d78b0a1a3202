"""HIP-NN models: physics of the stock backend, exchange with plain hippynn, saving."""

import dataclasses
import json
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from safetensors.torch import load_file, save_file
from scipy.spatial.transform import Rotation

from kdlib import hipnn
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig, Potential, kernels
from kdlib.hipnn.potential import WEIGHTS
from kdlib.training.references import fit_e0

CONFIGS = {
    "l_max 0": HipnnConfig(8, 6, 1, l_max=0, dtype="float64"),
    "l_max 1": HipnnConfig(8, 6, 1, dtype="float64"),
    "l_max 2": HipnnConfig(8, 6, 1, l_max=2, dtype="float64"),
    "two interactions": HipnnConfig(8, 6, 2, n_interaction_layers=2, cutoff=4.0, soft_max=3.5,
                                    dtype="float64"),
}  # fmt: skip


@pytest.fixture(params=CONFIGS)
def potential(request) -> Potential:
    return Potential(hipnn.build(CONFIGS[request.param], seed=1))


def energy(potential: Potential, atoms: Atoms) -> float:
    return potential.predict([atoms], forces=False).energy.item()


def test_default_is_the_papers_teacher():
    """The defaults are A.1: 128 features, 40 sensitivities, 4 atom layers, 7.5 Angstrom."""
    config = HipnnConfig()
    assert config.label == "128-40-4"
    assert (config.soft_min, config.soft_max, config.cutoff) == (1.5, 7.0, 7.5)


def test_no_two_architectures_share_a_name():
    """Every field is in the label unless it has its default, alone and in pairs of fields."""
    others = {
        "n_features": 16, "n_sensitivities": 8, "n_atom_layers": 1, "n_interaction_layers": 2,
        "l_max": 2, "soft_min": 1.35, "soft_max": 5.5, "cutoff": 8.0, "species": ("Cu", "Au"),
        "cusp_reg": 0.0, "resnet": False, "dtype": "float64",
    }  # fmt: skip
    assert set(others) == {field.name for field in dataclasses.fields(HipnnConfig)}
    configs = {HipnnConfig(**{a: others[a], b: others[b]}) for a in others for b in others}
    configs |= {HipnnConfig(), HipnnConfig(l_max=0), HipnnConfig(species=("Au", "Cu"))}
    configs |= {HipnnConfig(species=("C", "O")), HipnnConfig(species=("Co",))}
    configs |= {HipnnConfig(cutoff=8.0 + 1e-9), HipnnConfig(cutoff=8.0 + 2e-9)}
    assert len({config.label for config in configs}) == len(configs) > 80
    assert HipnnConfig(16, 8, 1).label == "16-8-1"
    assert HipnnConfig(16, 8, 1, l_max=2, cutoff=8).label == "16-8-1-l2-c8.0"
    assert HipnnConfig(cutoff=8).label == HipnnConfig(cutoff=8.0).label
    assert HipnnConfig(species=["Cu", "Au"], dtype="float64").label == "128-40-4-CuAu-float64"


def test_forces_are_minus_the_gradient(potential, crystal):
    """F = -dE/dx by central differences of the energy."""
    forces = potential.predict([crystal]).forces.values
    step = 1e-4
    for atom, axis in ((0, 0), (5, 1), (17, 2)):
        slope = 0.0
        for sign in (1, -1):
            moved = crystal.copy()
            moved.positions[atom, axis] += sign * step
            slope += sign * energy(potential, moved) / (2 * step)
        assert forces[atom, axis] == pytest.approx(-slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("handedness", ["right", "left"])
def test_stress_is_the_derivative_with_respect_to_strain(potential, crystal, handedness):
    """Stress = dE/dstrain / |V| by central differences, also in a left-handed cell."""
    if handedness == "left":
        crystal.set_cell(crystal.cell.array[[1, 0, 2]])
    stress = potential.predict([crystal], stress=True).stress.values[0]
    step = 1e-5
    for i, j in ((0, 0), (0, 1), (2, 1)):
        slope = 0.0
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step
            moved = crystal.copy()
            moved.set_cell(crystal.cell.array @ strain.T, scale_atoms=True)
            slope += sign * energy(potential, moved) / (2 * step)
        assert stress[i, j] == pytest.approx(slope / crystal.get_volume(), rel=1e-5, abs=1e-9)


def test_rotation_turns_forces_and_keeps_the_energy(potential, crystal):
    """Energy and atomic energies are invariant, forces turn with the crystal."""
    matrix = Rotation.random(random_state=0).as_matrix()
    turned = crystal.copy()
    turned.set_cell(crystal.cell.array @ matrix.T)
    turned.positions = crystal.positions @ matrix.T
    before, after = potential.predict([crystal]), potential.predict([turned])
    np.testing.assert_allclose(after.atomic_energies, before.atomic_energies, rtol=1e-10)
    np.testing.assert_allclose(after.forces, before.forces.values @ matrix.T, atol=1e-10)
    assert np.abs(before.forces.values).max() > 1e-3


def test_permutation_and_translation(potential, crystal):
    """Renaming atoms permutes their energies; moving the crystal, across the cell too, does not."""
    order = np.random.default_rng(0).permutation(len(crystal))
    moved = crystal[order]
    moved.positions += [1.3, 20.0, -7.0]
    before, after = potential.predict([crystal]), potential.predict([moved])
    np.testing.assert_allclose(after.atomic_energies, before.atomic_energies[order], rtol=1e-10)
    np.testing.assert_allclose(after.forces, before.forces.values[order], atol=1e-10)


def test_energy_is_extensive_and_forces_add_up_to_zero(potential, crystal):
    """A doubled cell has twice the energy; the total force vanishes."""
    one, two = potential.predict([crystal]), potential.predict([crystal * (2, 1, 1)])
    assert two.energy.item() == pytest.approx(2 * one.energy.item(), rel=1e-12)
    np.testing.assert_allclose(one.forces.sum("atom"), 0, atol=1e-10)
    assert one.atomic_energies.sum().item() == pytest.approx(one.energy.item(), rel=1e-12)


def test_batch_is_the_same_as_one_by_one(potential, crystal):
    """Frames in a batch do not see each other, whatever the batch size."""
    frames = [crystal, crystal * (2, 1, 1), Atoms("Al", [[0, 0, 0]])]
    alone = [potential.predict([atoms]) for atoms in frames]
    for max_atoms in (1, 50, 10_000):
        together = potential.predict(frames, max_atoms=max_atoms)
        np.testing.assert_allclose(together.energy, [d.energy.item() for d in alone], rtol=1e-12)
        stacked = np.concatenate([d.forces.values for d in alone])
        np.testing.assert_allclose(together.forces, stacked, atol=1e-12)


def test_energies_agree_with_plain_hippynn(crystal):
    """The same state dict in hippynn's own graph, with its own pair finder, gives the same."""
    config = CONFIGS["l_max 1"]
    module = hipnn.build(config, seed=3)
    foreign = hipnn.build(config, seed=4)
    node = hipnn.hippynn_graph(foreign)
    parts = {"network": foreign.network, "henergy": foreign.henergy}
    for prefix, plain in parts.items():
        state = {
            k.removeprefix(prefix + "."): v
            for k, v in module.state_dict().items()
            if k.startswith(prefix)
        }
        plain.load_state_dict(state, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hippynn.graphs import Predictor

        predictor = Predictor.from_graph(_graph(node), additional_outputs=None)
        found = predictor(
            species=torch.as_tensor(crystal.numbers)[None],
            coordinates=torch.as_tensor(crystal.positions)[None],
            cell=torch.as_tensor(crystal.cell.array)[None],
        )
    ours = Potential(module).predict([crystal])
    assert found[node.mol_energy.name].item() == pytest.approx(ours.energy.item(), rel=1e-10)
    np.testing.assert_allclose(
        found[node.atom_energies.name].numpy().ravel(), ours.atomic_energies, rtol=1e-10
    )


def _graph(node):
    from hippynn.graphs import GraphModule
    from hippynn.graphs.gops import find_unique_relative
    from hippynn.graphs.nodes.inputs import CellNode, PositionsNode, SpeciesNode

    inputs = [find_unique_relative(node, kind) for kind in (SpeciesNode, PositionsNode, CellNode)]
    return GraphModule(inputs, [node.mol_energy, node.atom_energies])


def test_reference_energies_are_recovered():
    """E0 of two species comes back from energies that are nothing but their sum."""
    module = hipnn.build(HipnnConfig(4, 4, 1, species=("Li", "Al")))
    frames = []
    for n in range(1, 5):
        atoms = Atoms(f"Al{n}Li{n % 3}", np.eye(n + n % 3, 3) * 3)
        atoms.calc = SinglePointCalculator(atoms, energy=-6600.1 * n - 203.7 * (n % 3))
        frames.append(atoms)
    fit_e0(module, frames)
    np.testing.assert_allclose(module.e0, [-203.7, -6600.1], rtol=0, atol=1e-9)
    assert not module.e0.requires_grad


def test_parameters_counted_without_the_frozen_reference():
    """The count is the trainable numbers, before and after E0 is fitted."""
    module = hipnn.build(CONFIGS["l_max 1"])
    frozen = module.henergy.layers[0].weight.numel()
    assert hipnn.n_parameters(module) == sum(p.numel() for p in module.parameters()) - frozen


def test_saved_model_predicts_the_same(tmp_path, potential, crystal):
    """Safetensors and JSON bring back every bit, with nothing left half-written."""
    hipnn.save(potential.module, tmp_path / "run")
    again = hipnn.load(tmp_path / "run")
    assert again.config == potential.config
    kernels.restore(again.module)  # computes with hippynn's layers, as the original
    np.testing.assert_array_equal(
        again.predict([crystal]).forces, potential.predict([crystal]).forces
    )
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [hipnn.CONFIG, WEIGHTS]


def test_a_model_of_single_precision_energies_still_loads(tmp_path, crystal):
    """Files written before E0 was kept in float64 give the E0 that they hold, and its energies."""
    module = hipnn.build(dataclasses.replace(CONFIGS["l_max 1"], dtype="float32"))
    module.e0.fill_(-6600.3)
    hipnn.save(module, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    assert tensors["henergy.layers.0.weight"].dtype == torch.float64
    save_file({name: value.float() for name, value in tensors.items()}, tmp_path / WEIGHTS)
    old = hipnn.load(tmp_path)
    assert old.module.e0.item() == np.float32(-6600.3)
    new = Potential(kernels.accelerate(module)).predict([crystal]).atomic_energies
    expected = new + (np.float32(-6600.3).item() + 6600.3)
    np.testing.assert_allclose(old.predict([crystal]).atomic_energies, expected, atol=1e-9, rtol=0)


def test_truncated_or_foreign_model_files_are_refused(tmp_path):
    """A damaged model is one clear error naming its folder."""
    hipnn.save(hipnn.build(CONFIGS["l_max 1"]), tmp_path)
    weights = tmp_path / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-20])
    with pytest.raises(InputError, match=str(tmp_path)):
        hipnn.load(tmp_path)
    weights.write_bytes(whole)
    record = json.loads((tmp_path / hipnn.CONFIG).read_text())
    record["hipnn"]["n_features"] = 9
    (tmp_path / hipnn.CONFIG).write_text(json.dumps(record))
    with pytest.raises(InputError, match="not a readable kdlib model"):
        hipnn.load(tmp_path)
    with pytest.raises(InputError, match="no such model file"):
        hipnn.load(tmp_path / "nowhere")


def test_unknown_species_are_refused():
    """A gold atom is an error of an aluminum model, not a wrong energy."""
    with pytest.raises(InputError, match="79"):
        Potential(hipnn.build(CONFIGS["l_max 1"])).predict([Atoms("Au", [[0, 0, 0]])])


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        ({"n_features": 0}, "n_features"),
        ({"l_max": 3}, "l_max"),
        ({"soft_max": 9.0}, "soft_max"),
        ({"species": ("Xx",)}, "species"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_impossible_configurations_are_refused(broken, rule):
    """Each rule of the configuration has its own message."""
    with pytest.raises(InputError, match=rule):
        HipnnConfig(**broken)


def test_initial_weights_do_not_depend_on_other_threads():
    """Models built side by side in threads have the weights of their seed, bit by bit."""
    config = CONFIGS["l_max 1"]
    alone = [hipnn.build(config, seed).network.interaction_layers[0] for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda k: hipnn.build(config, k % 4), range(80)))
    for k, module in enumerate(together):
        layer = module.network.interaction_layers[0]
        assert torch.equal(layer.int_weights, alone[k % 4].int_weights)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_loaded_model_computes_with_the_fused_kernels(name, tmp_path):
    """Where there are none, it keeps hippynn's layers."""
    module = hipnn.build(CONFIGS[name])
    hipnn.save(module, tmp_path)
    plain = type(module.network.interaction_layers[0])
    loaded = type(hipnn.load(tmp_path).module.network.interaction_layers[0])
    assert (loaded is plain) == (kernels.supports(module) is not None)
