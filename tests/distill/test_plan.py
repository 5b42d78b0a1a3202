"""The plan of a distillation."""

from dataclasses import replace

import pytest

from kdlib.distill import plan
from kdlib.distill.plan import Plan
from kdlib.errors import InputError

GOOD = Plan("emt", ("Cu",))


def test_sizes_are_architectures():
    """A word and three numbers name a HIP-NN; the cutoff is the plan's."""
    assert GOOD.architecture(("Cu",)).label == "32-16-2-Cu"
    assert replace(GOOD, size="12-8-1", cutoff=6.0).architecture(("Cu",)).cutoff == 6.0


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


def test_a_folder_without_a_plan_is_named(tmp_path):
    """Missing and damaged plans are errors that name the file."""
    with pytest.raises(InputError, match="holds no distillation"):
        plan.read(tmp_path)
    (tmp_path / plan.FILE).write_text("{")
    with pytest.raises(InputError, match="not a readable plan"):
        plan.read(tmp_path)
