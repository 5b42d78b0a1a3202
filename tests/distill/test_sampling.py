"""Rounds of a distillation: use of runs that end early, and when the target is met."""

from dataclasses import replace

import pytest
from ase.build import bulk

from kdlib import teachers
from kdlib.distill import sampling, workflow
from kdlib.distill.sampling import Round
from kdlib.geometry.cells import closest_pair
from kdlib.hipnn import HipnnConfig, build, save
from kdlib.md import exploration
from kdlib.md.exploration import Trajectory


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory):
    """Two untrained students of copper."""
    folders = [tmp_path_factory.mktemp(f"student{seed}") for seed in range(2)]
    for seed, folder in enumerate(folders):
        save(build(HipnnConfig(8, 8, 1, species=("Cu",)), seed), folder)
    return folders


def _copper(n: int):
    frames = [bulk("Cu", cubic=True).repeat(2) for _ in range(n)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1 * (1 + seed), seed=seed)
    return frames


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        (Trajectory(_copper(3), "", 1.0), {"fresh", "disputed"}),
        (Trajectory([], "exploded", 0.0, _copper(3)), {"disputed"}),
        (Trajectory([], "exploded", 0.0), set()),
    ],
)
def test_a_melt_that_exploded_is_learned_but_not_measured_on(
    monkeypatch, tiny, run_dirs, path, kinds
):
    """Its most disputed configuration is labeled; fresh frames come only from surviving runs."""
    monkeypatch.setattr(exploration, "follow", lambda *args: path)
    begun = sampling.Start(_copper(1)[0], 900.0, True)
    found, row = sampling._trajectory(
        replace(tiny, largest_force=1e9), begun, run_dirs, Round(1), j=1, shortest=1.7
    )
    assert {atoms.info["sampling"] for atoms in found.values()} == kinds
    assert set(found) == {f"r01/t01/{sampling.LAST[kind]}" for kind in kinds}
    assert row["survived"] == path.survived
    if path.melting:
        (atoms,) = found.values()
        models = [sampling.hipnn.load(d) for d in run_dirs]
        disputed = exploration.disagreement(*sampling.hipnn.ensemble_forces(models, path.melting))
        assert atoms.info["disagreement"] == pytest.approx(disputed.max(), abs=1e-4)
        assert atoms.info["part"] == "train"


def test_no_two_rounds_share_names_or_random_numbers(tiny):
    """Hundreds of rounds and tests have a name and a start each, and few digits are no limit."""
    every = [Round(n, is_test) for n in range(1, 300) for is_test in (False, True)]
    assert len({one.name for one in every}) == len(every)
    assert len({one.stream for one in every}) == len(every)
    given = [bulk("Cu", cubic=True)]
    starts = [sampling.start(tiny, given, one, 0).atoms.get_volume() for one in every]
    assert len(set(starts)) == len(starts)
    many = replace(tiny, n_teacher_runs=2, teacher_steps=510)
    found = sampling.by_teacher(many, given, teachers.load("emt"))
    assert len(found) == 2 * (510 // sampling.TEACHER_SAMPLE)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_first_cells_of_a_compound_show_like_pairs_in_contact(tiny, share):
    """With exchanges in all cells, some sodium meets sodium where chlorine would be; else none."""
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    plan = replace(tiny, n_start=40, n_atoms=32, antisites=share, rattle=(0.03, 0.05))
    nearest = []
    for atoms in sampling.first(plan, [salt]).values():
        assert atoms.symbols.count("Na") == atoms.symbols.count("Cl")
        sodium = atoms[atoms.numbers == 11].get_all_distances(mic=True)
        nearest.append(sodium[sodium > 0].min())
    if share:
        assert max(nearest) < 3.5
        assert plan.closest_pair * sampling.contact([salt]) < min(nearest) < 2.5
    else:
        assert min(nearest) > 3.5


def test_a_touch_is_neither_the_end_of_a_run_nor_labeled(monkeypatch, tiny, run_dirs):
    """Runs end at ``collapse``; configurations below ``closest_pair`` are not learned."""
    frames = _copper(3)
    frames[-1].positions[1] = frames[-1].positions[0] + [0.0, 0.0, 1.2]
    seen = []
    monkeypatch.setattr(
        exploration, "follow", lambda atoms, calc, e: seen.append(e) or Trajectory(frames, "", 1.0)
    )
    begun = sampling.Start(frames[0], 900.0, True)
    plan = replace(tiny, largest_force=1e9)
    found, _ = sampling._trajectory(plan, begun, run_dirs, Round(1), 1, 2.5)
    assert seen[0].closest == pytest.approx(2.5 * tiny.collapse)
    assert seen[0].closest < 1.2
    assert found
    assert all(closest_pair(atoms).distance > 2.5 * tiny.closest_pair for atoms in found.values())


@pytest.mark.parametrize(("error", "least", "met"), [(0.07, 0.9, True), (0.07, 0.5, False),
                                                     (0.09, 0.9, False)])  # fmt: skip
def test_errors_of_the_few_runs_that_live_do_not_meet_the_target(tiny, error, least, met):
    """A small error on one surviving melt is not enough."""
    errors = {state: {"force_rmse": error} for state in ("all", "solid", "molten")}
    assert workflow._is_met(tiny, {"errors": errors, "least": least}) == met
