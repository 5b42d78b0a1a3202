"""A result file holds what the schema says, and a broken rule is named."""

import numpy as np
import pytest
import xarray as xr

from kdlib.errors import InputError
from kdlib.results import schema


@pytest.fixture
def accuracy() -> xr.Dataset:
    """A small valid accuracy Dataset: two roles, two architectures, two seeds."""
    dims = ("role", "architecture", "seed", "split")
    values = np.random.default_rng(0).uniform(0.1, 0.2, (2, 2, 2, 3))
    names = ("energy_rmse", "energy_mae", "force_rmse", "force_mae")
    ds = xr.Dataset(
        {name: (dims, values) for name in names},
        {
            "role": ["student", "control"],
            "architecture": ["16-8-1", "32-16-2"],
            "seed": [0, 1],
            "split": ["train", "valid", "test"],
            "n_parameters": ("architecture", [2500, 20_000]),
        },
    )
    return schema.describe(ds, "accuracy")


def test_described_dataset_is_valid_and_says_its_units(accuracy):
    """What `describe` returns passes `validate`, with eV/Angstrom on a force error."""
    assert schema.validate(accuracy, "accuracy") is accuracy
    assert accuracy.force_rmse.attrs["units"] == "eV/Angstrom"
    assert accuracy.energy_rmse.attrs["units"] == "eV/atom"
    assert accuracy.attrs["kind"] == "accuracy"
    assert "n_parameters" in accuracy.coords


def test_describe_puts_dimensions_in_order(accuracy):
    """The order of dimensions is the schema's, whatever it was."""
    turned = schema.describe(
        accuracy.transpose("split", "seed", "role", "architecture"), "accuracy"
    )
    assert turned.force_rmse.dims == ("role", "architecture", "seed", "split")
    xr.testing.assert_equal(turned, accuracy)


def test_flags_become_numbers_so_that_a_missing_run_can_be_nan():
    """A boolean flag is stored as 0 or 1."""
    ds = xr.Dataset({"is_liquid": (("role", "architecture", "seed"), [[[True, False]]])})
    described = schema.describe(ds, "rdf")
    assert described.is_liquid.dtype == float
    assert described.is_liquid.values.tolist() == [[[1.0, 0.0]]]


def _drop(ds):
    return ds.drop_vars("force_rmse")


def _extra(ds):
    return ds.assign(extra=ds.force_rmse)


def _units(ds):
    return ds.assign(force_rmse=ds.force_rmse.assign_attrs(units="kcal/mol/Angstrom"))


def _no_name(ds):
    return ds.assign(force_rmse=ds.force_rmse.assign_attrs(long_name=""))


def _dims(ds):
    return ds.assign(force_rmse=ds.force_rmse.isel(split=0, drop=True))


def _role(ds):
    return ds.assign_coords(role=("role", ["student", "contrl"], ds.role.attrs))


def _twice(ds):
    return ds.assign_coords(seed=("seed", [1, 1], ds.seed.attrs))


def _negative(ds):
    return ds.assign(force_rmse=(-ds.force_rmse).assign_attrs(ds.force_rmse.attrs))


def _infinite(ds):
    bad = ds.force_rmse.where(ds.seed == 0, np.inf).assign_attrs(ds.force_rmse.attrs)
    return ds.assign(force_rmse=bad)


def _text(ds):
    return ds.assign(force_rmse=ds.force_rmse.astype(str).assign_attrs(ds.force_rmse.attrs))


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (_drop, "'force_rmse' is missing"),
        (_extra, "no variable 'extra'"),
        (_units, "'force_rmse' is in 'kcal/mol/Angstrom', but must be in 'eV/Angstrom'"),
        (_no_name, "'force_rmse' must have units and long_name"),
        (_dims, r"'force_rmse' has dimensions \('role', 'architecture', 'seed'\)"),
        (_role, "'role' holds 'contrl', but must be one of teacher, student"),
        (_twice, "'seed' repeats a value"),
        (_negative, "'force_rmse' holds -0.1.*must not be negative"),
        (_infinite, "'force_rmse' holds an infinite value"),
        (_text, "'force_rmse' has dtype .*must hold numbers"),
    ],
)
def test_every_broken_rule_is_named_with_file_and_variable(accuracy, broken, rule):
    """A Dataset that breaks one rule is refused, with the file, the variable and the rule."""
    with pytest.raises(InputError, match=f"^some/file.nc: .*{rule}"):
        schema.validate(broken(accuracy), "accuracy", source="some/file.nc")


def test_nan_marks_a_missing_run(accuracy):
    """Missing combinations of the grid are NaN, and that is no error."""
    accuracy["force_rmse"][0, 0] = np.nan
    schema.validate(accuracy, "accuracy")


def test_free_kinds_recognize_variables_of_the_schema(accuracy):
    """A figure's Dataset need not repeat what any kind says of a variable."""
    bare = accuracy.drop_attrs()
    assert schema.describe(bare, "figure").force_rmse.attrs == accuracy.force_rmse.attrs
    own = bare.assign(force_rmse=bare.force_rmse.assign_attrs(units="meV/Angstrom", long_name="x"))
    assert schema.describe(own, "figure").force_rmse.attrs["units"] == "meV/Angstrom"


def test_unknown_kind_lists_the_known_ones(accuracy):
    """A wrong kind is refused with the choice there is."""
    with pytest.raises(InputError, match="unknown kind of result 'acuracy'; known are accuracy"):
        schema.validate(accuracy, "acuracy")


def test_free_kinds_only_ask_for_units_and_names():
    """Figures and benchmarks name their own variables but must describe them."""
    ds = xr.Dataset({"anything": ("x", [1.0], {"units": "us", "long_name": "anything"})})
    schema.validate(ds, "figure")
    with pytest.raises(InputError, match="'bare' must have units"):
        schema.validate(ds.assign(bare=1.0), "figure")


@pytest.mark.parametrize("kind", sorted(schema.KINDS))
def test_every_variable_of_the_schema_has_a_meaning_and_a_unit(kind):
    """Numbers have units, and dimensions of the schema are described by a coordinate of it."""
    for name, variable in schema.KINDS[kind].items():
        assert variable.long_name
        assert len(set(variable.dims)) == len(variable.dims), name
        assert variable.units or not variable.positive, name


def test_single_runs_have_the_history_without_its_grid():
    """A run's own history has the variables of the sweep's, without role, architecture and seed."""
    run, history = schema.KINDS["run"], schema.KINDS["history"]
    assert run["force_rmse"].dims == ("epoch", "split")
    assert set(history) - set(run) >= {"role", "architecture", "seed", "n_parameters"}
