"""The audit finds planted effects, reports their absence, and names missing measurements."""

import math

import numpy as np
import pytest
import xarray as xr

from kdlib import claims, results
from kdlib.claims import evidence, paper
from kdlib.claims.audit import undecided
from kdlib.claims.statistics import Interval
from kdlib.errors import InputError
from kdlib.results import schema
from kdlib.training import TrainingConfig, losses, roles


def audited(found) -> dict[str, dict]:
    """Audit as name -> row."""
    table = claims.audit(found)
    return {
        str(row.claim.values): {str(k): v.item() for k, v in row.data_vars.items()}
        for row in (table.drop_dims("choice").isel(claim=k) for k in range(table.sizes["claim"]))
    }


@pytest.fixture(scope="module")
def strong(planted):
    """Audit of results in which every claim of the paper is true."""
    return audited(planted(smallest_to_teacher=1.4, born_again_control=1.0, noise=0.01))


def test_every_planted_effect_is_found(strong):
    """Where all effects are planted, all claims hold."""
    assert {name for name, row in strong.items() if row["verdict"] != "holds"} == set()


@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("force_control", 0.7),
        ("force_matched_control", 0.7 / 0.8),
        ("energy_control", 0.96),
        ("rdf_control", 0.7),
        ("learning_control", 0.7),
        ("born_again_force_teacher", 0.9),
        ("time_with_size_stock", 0.33),
    ],
)
def test_the_planted_number_is_recovered(strong, name, truth):
    """The planted value lies within the interval, and the interval is not too wide."""
    row = strong[name]
    assert row["value"] == pytest.approx(truth, rel=0.05)
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert row["ci_high"] / row["ci_low"] < 1.2


def test_null_effects_are_not_decided(planted):
    """Students that equal their controls, and Born-Again students that equal their teachers."""
    rows = audited(
        planted(student=1.0, matched_control=1.0, energy=1.0, rdf=1.0, born_again=1.0,
                born_again_control=1.0, seed=1)
    )  # fmt: skip
    for name in ("force_control", "energy_control", "rdf_matched_control", "learning_control",
                 "pareto_time_control", "born_again_force_control"):  # fmt: skip
        assert rows[name]["verdict"] in ("not decided", "does not hold"), name
    undecided = [name for name, row in rows.items() if row["verdict"] == "not decided"]
    assert {"force_control", "pareto_time_control", "born_again_force_teacher"} <= set(undecided)
    assert "its interval contains 1" in rows["force_control"]["reason"]


def test_an_undecided_claim_tells_how_many_runs_would_decide():
    """Half the distance to the nearest limit of what the interval reaches: four times the runs."""
    claim = next(c for c in paper.claims() if c.name == "energy_control")  # from 0.9 to 1
    told = lambda *interval: undecided(claim, Interval(*interval, 10))  # noqa: E731
    assert told(0.96, 0.88, 1.04) == [
        "its interval contains 1",
        "with scatter as here, 4 times as many runs would decide",
    ]
    assert "its interval contains 0.9" in told(0.92, 0.88, 0.96)
    assert "4 times" in told(0.92, 0.88, 0.96)[1]
    assert "2.2 times" in told(1.1, 0.95, 1.30)[1]
    assert "over 100 times" in told(1.0, 0.95, 1.05)[1]


def test_reversed_effects_do_not_hold(planted):
    """Students clearly worse than their controls: the claims are refuted, not left open."""
    rows = audited(planted(student=1.3, matched_control=0.9, energy=1.2, rdf=1.4, born_again=1.2))
    for name in ("force_control", "force_matched_control", "energy_control", "rdf_control",
                 "learning_control", "pareto_time_control", "pareto_memory_matched_control",
                 "born_again_force_teacher"):  # fmt: skip
        assert rows[name]["verdict"] == "does not hold", name


def test_one_size_alone_contradicts_a_claim_on_all(planted):
    """A gain at most sizes and a loss at one: the mean decides nothing, the one does."""
    found = planted(student=0.97, matched_control=1.0, noise=0.01)
    one = str(found["accuracy"].architecture.values[0])
    found["accuracy"].force_rmse.loc[{"role": "student", "architecture": one}] *= 1.3
    row = audited(found)["force_control"]
    assert row["ci_low"] < 1 < row["ci_high"]
    assert row["verdict"] == "does not hold"
    n = found["accuracy"].sizes["architecture"]
    assert f"{one} alone has 1.2" in row["reason"]
    assert f"corrected for the choice among {n}" in row["reason"]


def test_a_size_that_scatters_contradicts_nothing(planted):
    """The same loss in two of the seeds only: the interval at that size reaches below one."""
    found = planted(student=0.97, matched_control=1.0, noise=0.01)
    one = {"role": "student", "architecture": str(found["accuracy"].architecture.values[0])}
    seeds = found["accuracy"].seed.values[:2]
    found["accuracy"].force_rmse.loc[{**one, "seed": seeds}] *= 1.3
    assert audited(found)["force_control"]["verdict"] == "not decided"


def test_a_large_energy_gain_is_not_minimal(planted):
    """An improvement beyond the margin is an improvement, but the paper's word is refuted."""
    row = audited(planted(energy=0.7))["energy_control"]
    assert row["value"] == pytest.approx(0.7, rel=0.05)
    assert row["verdict"] == "does not hold"


def test_a_different_same_size_student_is_not_comparable(planted):
    """30 % off the teacher is outside the margin of comparability, on either side."""
    for factor in (0.7, 1.3):
        row = audited(planted(same_size_student=factor))["same_size_force"]
        assert row["verdict"] == "does not hold"


def test_two_noisy_seeds_decide_nothing(planted):
    """With two seeds and 10 % noise a true gain of 5 % stays open."""
    rows = audited(planted(seeds=2, noise=0.1, student=0.95, matched_control=1.0))
    assert rows["force_matched_control"]["verdict"] == "not decided"
    assert rows["pareto_time_control"]["verdict"] == "not decided"


def test_one_seed_and_one_size_give_a_number_without_interval(planted):
    """A single run has a value and no verdict."""
    found = planted(seeds=1)
    found["accuracy"] = found["accuracy"].sel(architecture=["128-40-4"])
    row = audited(found)["force_control"]
    assert np.isfinite(row["value"])
    assert np.isnan(row["ci_low"])
    assert row["verdict"] == "not decided"
    assert "1 run give" in row["reason"] or "1 runs give" in row["reason"]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("speed", ["pareto_time_control", "time_with_size_fused", "memory_vs_teacher_stock"]),
        ("rdf", ["rdf_control", "rdf_correlation"]),
        ("history", ["learning_control", "learning_constant"]),
        ("accuracy", ["force_control", "born_again_energy_teacher", "student_beats_teacher"]),
    ],
)
def test_absent_results_are_not_measured(planted, kind, names):
    """A claim without data says so and names what is missing; the others are judged."""
    found = planted()
    del found[kind]
    rows = audited(found)
    for name in names:
        assert rows[name]["verdict"] == "not measured", name
        assert math.isnan(rows[name]["value"])
        assert rows[name]["reason"].startswith("no ") or "not measured" in rows[name]["reason"]
    assert any(row["verdict"] == "holds" for row in rows.values())


def test_absent_roles_are_not_measured(planted):
    """Before the Born-Again notebook has run, its claims are open and the others are not."""
    found = planted()
    found["accuracy"] = found["accuracy"].sel(role=["teacher", "student", "control"])
    rows = audited(found)
    assert rows["born_again_force_teacher"]["verdict"] == "not measured"
    assert rows["force_matched_control"]["verdict"] == "not measured"
    assert rows["force_control"]["verdict"] == "holds"
    assert "matched control was not measured" in rows["force_control"]["reason"]


def test_nothing_at_all_is_not_measured(tmp_path):
    """An empty results folder gives a full table without a verdict."""
    table = claims.audit(tmp_path)
    assert set(table.verdict.values.tolist()) == {"not measured"}


def test_one_frame_cannot_decide(planted, strong):
    """Where a test frame has most of the squared error, the comparison of errors is not judged."""
    found = dict(planted(smallest_to_teacher=1.4, born_again_control=1.0, noise=0.01))
    squares = found["accuracy"].frame_force_mse
    worse = squares.where(squares.frame != 7, 100 * squares)
    found["accuracy"] = found["accuracy"].assign(frame_force_mse=worse)
    rows = audited(found)
    assert strong["force_control"]["verdict"] == "holds"
    assert rows["force_control"]["verdict"] == "not decided"
    assert "one test frame has" in rows["force_control"]["reason"]
    assert rows["energy_control"]["verdict"] == "holds"


@pytest.mark.parametrize(
    ("gains", "at_floor", "words"),
    [
        (
            {"student": 0.008, "control": 0.011},
            "yes",
            "at their floor: student 0.8%, control 1.1% by doubling the epochs (limit 2%)",
        ),
        (
            {"student": 0.06},
            "no",
            "not at their floor: student 6.0% by doubling the epochs (limit 2%)",
        ),
        ({"student": -0.01, "control": 0.02}, "no", "not at their floor: control 2.0% by"),
        ({"student": math.nan}, "not checked", "floor not checked: student"),
        ({"student": math.nan, "control": 0.03}, "no", "not at their floor: control 3.0% by"),
    ],
)
def test_the_floor_is_told_beside_the_verdict(planted, strong, gains, at_floor, words):
    """Below 2 % at each architecture is the floor; the verdict of a comparison stays."""
    found = planted(smallest_to_teacher=1.4, born_again_control=1.0, noise=0.01)
    ds = found["accuracy"].copy(deep=True)
    for role, gain in gains.items():
        ds.floor_gain.loc[{"role": role, "architecture": "16-8-1", "seed": 0}] = gain
    if at_floor == "yes":  # told is the largest of the architectures
        ds["floor_gain"] = ds.floor_gain.where(ds.architecture == "16-8-1", ds.floor_gain - 0.5)
    rows = audited(found | {"accuracy": ds})
    for name in ("force_control", "energy_control", "rdf_control", "pareto_time_control",
                 "learning_control", "learning_constant"):  # fmt: skip
        assert rows[name]["at_floor"] == at_floor, name
        assert rows[name]["floor_reason"].startswith(words), name
        assert rows[name]["verdict"] == strong[name]["verdict"] == "holds"
    assert rows["born_again_force_teacher"]["at_floor"] == "yes"


def test_the_floor_is_that_of_the_trainings_compared(planted):
    """Other architectures do not count, cost compares no trainings, and the limit is a margin."""
    found = planted()
    ds = found["accuracy"].copy(deep=True)
    ds.floor_gain.loc[{"role": "student", "architecture": "128-40-4"}] = 0.3
    found["rdf"] = found["rdf"].sel(architecture=["12-8-1", "16-8-1"])
    rows = audited(found | {"accuracy": ds})
    assert rows["student_beats_teacher"]["at_floor"] == rows["rdf_control"]["at_floor"] == "yes"
    assert rows["force_control"]["at_floor"] == "no"
    assert rows["time_with_size_fused"]["at_floor"] == ""
    strict = claims.audit(found, claims.Margins(floor=0.01)).set_index(claim="claim")
    assert strict.at_floor.sel(claim="rdf_control").item() == "no"
    del found["accuracy"]
    rows = audited(found)
    assert rows["force_control"]["at_floor"] == ""
    assert rows["rdf_control"]["at_floor"] == rows["learning_control"]["at_floor"] == "not checked"


def test_the_share_of_the_force_weight_is_told(planted):
    """If the matched control has the whole gain, the reason of the control claim says so."""
    row = audited(planted(student=0.7, matched_control=0.7))["force_control"]
    assert row["verdict"] == "holds"
    times = float(row["reason"].split(" times the gain")[0].split()[-1])
    assert times == pytest.approx(1, abs=0.05)


def test_audit_of_a_folder_is_audit_of_its_datasets(planted, tmp_path):
    """Files give the same table as the Datasets in memory, and the table can be stored."""
    found = planted()
    for kind in ("accuracy", "history", "speed", "rdf", "data"):
        results.save(found[kind], tmp_path / f"{kind}.nc", kind)
    table = claims.audit(tmp_path)
    assert table.verdict.equals(claims.audit(found).verdict)
    path = results.save(table, tmp_path / "claims.nc", "claims", profile="smoke")
    assert results.load(path, "claims").statement.equals(table.statement)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.8, 0.7, 0.9), "holds"),
        ((0.95, 0.9, 1.01), "not decided"),
        ((1.2, 1.1, 1.3), "does not hold"),
        ((0.8, math.nan, math.nan), "not decided"),
    ],
)
def test_verdict_follows_the_interval(interval, expected):
    """Holds only if the whole interval lies on the claimed side."""
    assert claims.verdict(Interval(*interval, 4), -math.inf, 1.0) == expected


def test_verdict_of_a_range_needs_the_whole_interval_inside():
    """For "minimal" and "comparable" both ends count."""
    assert claims.verdict(Interval(1.0, 0.95, 1.05, 4), 0.9, 1.1) == "holds"
    assert claims.verdict(Interval(1.0, 0.85, 1.05, 4), 0.9, 1.1) == "not decided"
    assert claims.verdict(Interval(0.8, 0.75, 0.85, 4), 0.9, 1.1) == "does not hold"


def test_paper_values_are_the_papers():
    """Section 3.5: 0.092 to 0.083 eV/Angstrom is "about 10 %"."""
    teacher, student = (claims.PAPER[f"{name}_force_rmse"][0] for name in ("teacher", "born_again"))
    assert 1 - student / teacher == pytest.approx(0.10, abs=0.005)
    rows = {claim.name: claim for claim in claims.claims()}
    assert rows["born_again_force_teacher"].paper == pytest.approx(student / teacher)


def test_each_architecture_is_compared_over_its_own_training(planted):
    """A student that falls behind late in a longer training is seen, and the drift, too."""
    found = planted(seeds=3, noise=1e-9)
    history = found["history"].sel(role=["student", "control"])
    long, *short = history.architecture.values.tolist()
    late = history.epoch > 50
    history.force_rmse.loc[{"architecture": short, "epoch": history.epoch[late]}] = np.nan
    history.force_rmse.loc[
        {"role": "student", "architecture": long, "epoch": history.epoch[late]}
    ] *= 2  # fmt: skip
    found = {"history": history.dropna("architecture", how="all", subset=["force_rmse"])}
    ratio = evidence.find(evidence.learning_ratio("student", "control"), found)
    drift = evidence.find(evidence.learning_drift("student", "control"), found)
    for label in short:
        assert ratio.alone[label].value == pytest.approx(0.7, rel=1e-6)
        assert drift.alone[label].value == pytest.approx(1, rel=1e-6)
    assert ratio.alone[long].value > 0.75
    assert drift.alone[long].value > 1.2


def test_claims_have_unique_names_and_rules():
    """Every claim is named once, in words, with a rule."""
    listed = claims.claims()
    assert len({claim.name for claim in listed}) == len(listed)
    assert all(claim.statement and claim.rule.startswith("interval") for claim in listed)


def test_choices_are_read_from_the_results(planted):
    """Settings of a run come from its result files alone, loss weights from the last epoch."""
    found = planted(seeds=3)
    told = {"batch_size": 7, "e0_decay": 0.02, "selection_energy": 1.0, "selection_force": 10.0}
    told |= {
        "selection": "validation",
        "cusp_reg": 1e-8,
        "resnet": "true",
        "lr_patience": 30,
        "stop_patience": 60,
        "learning_rate": 0.001,
        "rate_schedule": "plateau",
        "cell_atoms": 130.0,
        "optimizer": "adam",
        "weight_decay": 0.0,
    }
    found["accuracy"].attrs |= told
    history = found["history"]
    last = {"born_again": (1, 15, 0), "matched_control": (1, 25, 0)}
    for k, name in enumerate(("energy", "force", "atomic_energy")):
        history[f"weight_{name}"] = xr.full_like(history.force_rmse.isel(split=0, drop=True), 77.0)
        for role, weights in last.items():
            history[f"weight_{name}"].loc[{"role": role, "epoch": history.epoch[-20:]}] = weights[k]
    table = claims.choices(found)
    ours = dict(zip(table.choice.values.tolist(), table.choice_ours.values.tolist(), strict=True))
    assert ours["batch size"] == "7"
    assert ours["epoch cap"] == "not in the results"
    assert "(decay factor 0.02)" in ours["energy zero"]
    assert ours["model selection"].endswith("energy x 1 + forces x 10, for every role")
    assert (
        ours["learning rate"]
        == "0.001, halved after 30 and stopped after 60 epochs without improvement"
    )
    assert ours["size of the cells that w_E refers to"] == "cells of 130 atoms"
    assert ours["cusp of the l = 1 invariant"] == "cusp_reg = 1e-08, shortcut layers True"
    assert ours["independent runs"].startswith("3 seeds")
    assert ours["last weights of Table 1"] == "Table 1 as printed, w_E 1, w_F 15, w_A 0"
    assert "force weight 25 and no labels" in ours["everything else held constant"]
    assert ours["dataset"].startswith("data: 400 cells")
    found["accuracy"].attrs |= {"rate_schedule": "cosine", "final_rate": 0.01, "warmup_epochs": 5}
    rates = claims.choices(found).sel(choice="learning rate").choice_ours.item()
    assert rates.startswith("half a cosine from 0.001 to 0.01 of it, over all epochs, after 5")
    assert ours["optimizer"] == "Adam"
    found["accuracy"].attrs |= {"optimizer": "soap", "weight_decay": 0.03}
    soap = claims.choices(found).sel(choice="optimizer").choice_ours.item()
    assert soap == "SOAP (10.48550/arXiv.2409.11321), weight decay 0.03"
    found["accuracy"]["n_epochs"] = found["accuracy"].force_rmse.isel(split=0, drop=True) * 0 + 200
    found["accuracy"].n_epochs[{"architecture": 0}] = 800
    sizes = found["accuracy"].architecture.values.tolist()
    cap = claims.choices(found).sel(choice="epoch cap").choice_ours.item()
    assert cap == f"200 ({', '.join(sizes[1:])}); 800 ({sizes[0]})"
    without = claims.choices()
    assert without.choice_ours.values.tolist().count("not in the results") == 12
    assert set(schema.KINDS["claims"]) >= set(map(str, table.variables))


def test_the_papers_settings_are_the_defaults_of_a_training():
    """The audit's quotes from the paper equal the defaults of roles and trainings."""
    for role, weights in paper.WEIGHTS.items():
        stage = roles.ROLES[role].schedule(500).stages[-1][1]
        assert (stage.energy, stage.force, stage.atomic_energy) == weights
    end = losses.TABLE_1.stages[-1][1]
    assert (end.energy, end.force, end.atomic_energy) == paper.LAST_STAGE
    for name, value in (paper.SCRIPT | paper.PATIENCE).items():
        assert getattr(TrainingConfig(), name) == value


def test_contradicting_files_are_named(planted, tmp_path):
    """Two accuracy files that disagree cannot be audited."""
    ds = planted()["accuracy"]
    results.save(ds, tmp_path / "accuracy_a.nc", "accuracy")
    other = ds.copy(deep=True)
    other["force_rmse"] = other.force_rmse * 1.1
    results.save(other, tmp_path / "accuracy_b.nc", "accuracy")
    with pytest.raises(InputError, match=r"accuracy_a\.nc.*accuracy_b\.nc"):
        claims.audit(tmp_path)
