"""The plan of a distillation."""

from dataclasses import replace

import pytest
from ase.build import bulk

from kdlib import hipnn
from kdlib.distill import delivery, plan
from kdlib.distill.plan import Plan
from kdlib.errors import InputError
from kdlib.hipnn.calculator import HipnnCalculator

GOOD = Plan("emt", ("Cu",))


def test_sizes_are_architectures():
    """A word and three numbers name a HIP-NN; cutoff and rounding of cusps are the plan's."""
    assert GOOD.architecture(("Cu",)).label == "32-16-2-Cu-cusp0.001"
    sharp = replace(GOOD, size="12-8-1", cutoff=6.0, cusp_reg=1e-8).architecture(("Cu",))
    assert (sharp.label, sharp.cutoff) == ("12-8-1-max5.5-c6.0-Cu", 6.0)


def test_a_student_is_smooth_on_symmetric_sites():
    """Along a displacement from a crystal's site the force grows linearly; at 1e-8 it jumps.

    The atom's own vector vanishes on its site, and so do those of its neighbors.
    """

    def stiffness(cusp_reg: float) -> float:
        """Ratio of the curvatures within 1e-4 and within 0.02 Angstrom of the site."""
        config = replace(GOOD, size="16-8-1", cusp_reg=cusp_reg).architecture(("Cu",))
        potential = hipnn.Potential(hipnn.build(replace(config, dtype="float64"), seed=1))
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.calc = potential.calculator(device="cpu")
        curvatures = []
        for way in (1e-4, 0.02):
            moved = atoms.copy()
            moved.calc = atoms.calc
            moved.positions[0, 0] += way
            curvatures.append(moved.get_forces()[0, 0] / way)
        return abs(curvatures[0] / curvatures[1])

    assert stiffness(GOOD.cusp_reg) == pytest.approx(1, abs=0.2)
    assert stiffness(1e-8) > 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": "huge"}, "size 'huge'"),
        ({"labels": "maybe"}, "labels"),
        ({"temperatures": (900, 300)}, "temperatures are 900 to 300"),
        ({"structures": ()}, "at least one structure"),
        ({"n_models": 1}, "two models"),
        ({"max_frames": 0}, "max_frames"),
    ],
)
def test_what_cannot_be_is_refused(change, words):
    """Each rule names the field that breaks it."""
    with pytest.raises(InputError, match=words):
        replace(GOOD, **change)


def test_a_plan_means_the_same_from_another_folder(tmp_path, monkeypatch):
    """Paths of structures, data and teacher become absolute; names of models and elements stay."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("Cu@300K.cif", "own.xyz", "Cu.alloy", "7net-0"):
        (tmp_path / name).touch()
    made = Plan("eam:Cu.alloy", ("Cu", "~/Cu@300K.cif"), data=("own.xyz",))
    assert made.teacher == f"eam:{tmp_path}/Cu.alloy"
    assert made.structures == ("Cu", f"{tmp_path}/Cu@300K.cif")
    assert made.data == (f"{tmp_path}/own.xyz",)
    for teacher in ("emt", "sevennet:7net-0", "eam:absent.alloy", "package.module:factory"):
        assert Plan(teacher, ("Cu",)).teacher == teacher


def test_a_folder_keeps_its_plan(tmp_path):
    """A plan reads back unchanged; budgets may change, other fields may not."""
    plan.keep(GOOD, tmp_path)
    assert plan.read(tmp_path) == GOOD
    plan.keep(replace(GOOD, max_frames=900, target_force_rmse=0.05), tmp_path)
    assert plan.read(tmp_path).max_frames == 900
    with pytest.raises(InputError, match="another volumes"):
        plan.keep(replace(GOOD, volumes=(0.9, 1.1)), tmp_path)


def test_a_plan_that_labeled_nothing_may_be_replaced(tmp_path):
    """Its folder holds no frames that depend on it."""
    plan.keep(GOOD, tmp_path)
    other = replace(GOOD, teacher="chgnet")
    plan.keep(other, tmp_path, begun=False)
    assert plan.read(tmp_path) == other


def test_a_folder_without_a_plan_is_named(tmp_path):
    """Missing and damaged plans are errors that name the file."""
    with pytest.raises(InputError, match="holds no distillation"):
        plan.read(tmp_path)
    (tmp_path / plan.FILE).write_text("{")
    with pytest.raises(InputError, match="not a readable plan"):
        plan.read(tmp_path)


def test_fire_is_named_wherever_a_user_learns_to_relax(project):
    """README, the calculator and the scripts that relax: BFGS takes a cusp for a curvature."""
    readme = (project / "README.md").read_text(encoding="utf-8")
    texts = [readme, HipnnCalculator.__doc__]
    texts += [delivery._handout(name) for name in ("use_with_ase.py", "use_with_lammps.py")]
    assert all("FIRE" in text for text in texts)
    assert "FIRE(FrechetCellFilter(atoms)" in texts[0]
    assert "FIRE(FrechetCellFilter(atoms)" in texts[2]
