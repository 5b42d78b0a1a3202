"""Figures show their data in one style and are redrawn from the stored data alone."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image
from synthetic import linear_ace

from kdlib import figures, results
from kdlib.claims import evidence
from kdlib.claims.statistics import over_seeds
from kdlib.errors import InputError
from kdlib.figures.style import ROLE_LOOKS, label, log_ticks
from kdlib.results import schema

NAMES = sorted(figures.REDRAW)
#: Axes of these have no numbers.
WORDLESS = {"fig1_schematic", "claims"}
#: Axis labels of pure numbers and of names.
UNITLESS = {
    "Trainable parameters", "Epoch", "Phase", "Frames", "Architecture", "g(r)",
    "Ratio of validation force RMSE", "g(r) − own teacher's", "Neighbors in the first shell",
    "Force components per cell",
    "Paired change against the teacher [95 % interval]", "$w_A$", "$w_F$", "$w_E$",
    "g(r), offset by 2 per phase", "Number of atoms", "Architecture and frames per batch",
    "Round", "Property of fcc", "Volume / given volume", "Potential",
    "Students' force RMSE over the controls'",
    "Students' force RMSE over the matched controls'",
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn(drawn_from):
    """Every figure, drawn once from synthetic data."""
    return {name: figures.REDRAW[name](ds) for name, ds in drawn_from.items()}


def pixels(figure) -> np.ndarray:
    """Figure as an RGBA array."""
    canvas = FigureCanvasAgg(figure)
    with figures.style():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def picture(path) -> np.ndarray:
    """Pixels of a picture file."""
    with Image.open(path) as image:
        return np.asarray(image).copy()


def texts(figure) -> list[str]:
    """Axis labels that are shown."""
    axes = [ax for ax in figure.axes if ax.axison]
    children = [child for ax in axes for child in ax.child_axes]
    return [text for ax in axes + children for text in (ax.get_xlabel(), ax.get_ylabel()) if text]


def test_every_figure_has_synthetic_data(drawn_from):
    """No function in REDRAW goes untested."""
    assert sorted(drawn_from) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_figure_is_drawn(drawn, name):
    """Ink in every panel: no figure and no axes stay empty."""
    image = pixels(drawn[name])
    assert (image[..., :3] < 250).any(axis=-1).mean() > 0.01
    for ax in drawn[name].axes:
        assert ax.lines or ax.collections or ax.patches or ax.texts


@pytest.mark.parametrize("name", sorted(set(NAMES) - WORDLESS))
def test_every_axis_says_its_unit(drawn, name):
    """An axis label ends with a unit in brackets, unless it is a pure number or a name."""
    labels = texts(drawn[name])
    assert labels
    for text in labels:
        assert text in UNITLESS or text.endswith(")"), text
    quantities = [text for text in labels if text not in UNITLESS]
    for text in quantities:
        unit = text[text.rindex("(") + 1 : -1]
        known = (
            "eV/Å",
            "eV/atom",
            "meV/atom",
            "eV",
            "Å",
            "K",
            "g/cm³",
            "kB/atom",
            "µs/atom/step",
            "MB",
            "s",
            "ms",
            "ps",
            "µeV/atom",
            "Å³/atom",
            "%",
        )
        assert unit in known, text


@pytest.mark.parametrize("name", sorted(set(NAMES) - WORDLESS))
def test_every_axis_is_labeled(drawn, name):
    """Both axes of every panel have labels, except where they are shared."""
    for ax in drawn[name].axes:
        if ax.axison and ax.get_label() != "<colorbar>":
            shared = ax.get_shared_x_axes().get_siblings(ax) + ax.get_shared_y_axes().get_siblings(
                ax
            )
            assert ax.get_xlabel() or len(shared) > 2
            assert ax.get_ylabel() or len(shared) > 2


def test_roles_keep_their_color_and_marker_everywhere(drawn):
    """In every legend a role has the same color, and its marker where it has one."""
    seen: dict[str, set[str]] = {}
    looks = {look.label: look for look in ROLE_LOOKS.values()}
    for figure in drawn.values():
        legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
        for legend in legends:
            for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
                word = text.get_text().split(",")[0]
                if word in looks and hasattr(handle, "get_color"):
                    seen.setdefault(word, set()).add(to_hex(handle.get_color()).upper())
    assert {"teacher", "student", "control", "matched control"} <= set(seen)
    for word, colors in seen.items():
        assert colors == {looks[word].color.upper()}


def test_no_two_roles_look_alike():
    """Colors and markers are unique, and colors differ in gray or in hue for the color-blind."""
    looks = list(ROLE_LOOKS.values())
    assert len({look.color for look in looks}) == len(looks)
    assert len({look.marker for look in looks}) == len(looks)


def test_every_role_of_the_schema_has_a_look():
    """A new role needs a color before it can be drawn."""
    assert set(ROLE_LOOKS) == set(schema.ROLES)


def test_means_and_seeds_are_where_the_data_are(drawn, drawn_from):
    """In Fig. 3 A the student's line is the geometric mean, and every seed is a point."""
    ds = drawn_from["fig3_capacity"].sel(split="test", role="student")
    ax = drawn["fig3_capacity"].axes[0]
    look = ROLE_LOOKS["student"]
    lines = [
        line for line in ax.lines if line.get_color() == look.color and len(line.get_xdata()) == 5
    ]
    np.testing.assert_allclose(lines[0].get_xdata(), ds.n_parameters)
    np.testing.assert_allclose(lines[0].get_ydata(), over_seeds(ds.force_rmse)["mean"])
    points = np.concatenate([c.get_offsets() for c in ax.collections if len(c.get_offsets()) == 20])
    assert set(np.round(ds.force_rmse.values.ravel(), 12)) <= set(np.round(points[:, 1], 12))


def test_energies_are_shown_in_mev(drawn, drawn_from):
    """The stored unit is eV/atom, the axis says meV/atom, and the numbers follow."""
    ds = drawn_from["fig3_capacity"].sel(split="test", role="control")
    ax = drawn["fig3_capacity"].axes[1]
    assert ax.get_ylabel() == "Energy RMSE, test (meV/atom)"
    low, high = ax.get_ylim()
    assert low < 1000 * float(ds.energy_rmse.min())
    assert high > 1000 * float(ds.energy_rmse.max())


def test_pareto_fronts_fall_with_cost(drawn):
    """Along a front, error never rises with cost."""
    for ax in drawn["fig2_pareto"].axes[:2]:
        steps = [line for line in ax.lines if line.get_drawstyle() == "steps-post"]
        assert len(steps) == 6
        for line in steps:
            assert (np.diff(line.get_xdata()) >= 0).all()
            assert (np.diff(line.get_ydata()) <= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_redrawn_from_its_file_it_is_the_same_picture(drawn, drawn_from, name, tmp_path):
    """The stored NetCDF alone gives the same pixels, and is small enough to commit."""
    png, svg, data = figures.save(drawn[name], drawn_from[name], tmp_path, name)
    assert [path.name for path in (png, svg, data)] == [f"{name}.{e}" for e in ("png", "svg", "nc")]
    assert data.parent == tmp_path / "figures"
    assert data.stat().st_size < 400_000
    before = picture(png)
    svg_before = svg.read_text()
    png.unlink()
    assert figures.redraw(tmp_path) == [png, svg]
    np.testing.assert_array_equal(picture(png), before)
    assert svg.read_text() == svg_before
    assert sorted(path.suffix for path in data.parent.iterdir()) == [".nc", ".png", ".svg"]


def test_a_box_moved_by_its_last_bit_gives_the_same_svg(drawn_from, tmp_path):
    """The solver of the layout does not always repeat the last bits of a box."""
    found = set()
    for place in (0.31, np.nextafter(0.31, 1)):
        figure = figures.REDRAW["rdf"](drawn_from["rdf"])
        figure.set_layout_engine("none")
        figure.axes[0].set_position((place, 0.3, 0.4, 0.4))
        _, svg, _ = figures.save(figure, drawn_from["rdf"], tmp_path, "rdf")
        found.add(svg.read_text())
    assert len(found) == 1
    assert "url(#clip0)" in found.pop()


def test_png_has_300_dpi_at_column_width(drawn, drawn_from, tmp_path):
    """A picture is as wide as a journal's column or page: 3.35 or 7 inch at 300 dpi."""
    for name in ("rdf", "fig3_capacity"):
        png, *_ = figures.save(drawn[name], drawn_from[name], tmp_path, name)
        with Image.open(png) as image:
            assert image.info["dpi"][0] == pytest.approx(300, abs=0.1)
            assert image.width in (1005, 2100)


def test_saved_data_keep_their_provenance(drawn_from, tmp_path):
    """A figure's file says on which machine its data were measured, not where it was drawn."""
    ds = drawn_from["fig5_cost"].assign_attrs(cpu_model="another machine", profile="laptop")
    *_, path = figures.save(figures.fig5_cost(ds), ds, tmp_path, "fig5_cost")
    attrs = results.load(path).attrs
    assert attrs["cpu_model"] == "another machine"
    assert attrs["profile"] == "laptop"


def test_all_of_a_notebook_is_published_at_once(drawn_from, planted, tmp_path):
    """Result files get their kind from their name or attributes, and say where they come from."""
    found = planted()
    labels = xr.Dataset({"n_atoms": ("frame", [1], {"units": "1", "long_name": "atoms"})})
    figures.publish(
        tmp_path,
        {"accuracy_students.nc": found["accuracy"], "other.nc": labels},
        {"rdf": (figures.rdf(drawn_from["rdf"]), drawn_from["rdf"])},
        profile="laptop",
        split_sha256="abc",
    )
    for name, kind in (("accuracy_students", "accuracy"), ("other", "series")):
        attrs = results.load(tmp_path / f"{name}.nc").attrs
        assert (attrs["kind"], attrs["profile"], attrs["split_sha256"]) == (kind, "laptop", "abc")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "rdf.nc", "rdf.png", "rdf.svg"
    }  # fmt: skip
    with pytest.raises(InputError, match="kind 'accuracy'"):
        figures.publish(tmp_path, {"accuracy_teacher.nc": labels})


def test_selection_changes_nothing_the_second_time(drawn_from):
    """Selecting from the stored data changes nothing."""
    for name, ds in drawn_from.items():
        once = figures.REDRAW[name].select(ds)
        assert once.identical(figures.REDRAW[name].select(once)), name


def test_drawing_leaves_matplotlib_as_it_was(drawn_from):
    """No global setting changes, and pyplot holds no figure."""
    before = dict(mpl.rcParams)
    figures.fig5_cost(drawn_from["fig5_cost"])
    assert dict(mpl.rcParams) == before
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_figures_are_redrawn_without_torch():
    """`kdlib figures` needs no model and no torch."""
    code = "import sys; from kdlib import figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_variable_is_named(drawn_from):
    """A Dataset without what the figure needs is refused by name."""
    with pytest.raises(InputError, match="variable 'step_time' is missing for this figure"):
        figures.fig2_pareto(drawn_from["fig3_capacity"])


def test_unknown_or_absent_figures_are_refused(drawn, drawn_from, tmp_path):
    """A wrong name lists the right ones; an empty folder has nothing to redraw."""
    with pytest.raises(
        InputError, match="unknown figure 'fig9'; known are benchmark, benchmark_gpu"
    ):
        figures.save(drawn["claims"], drawn_from["claims"], tmp_path, "fig9")
    with pytest.raises(InputError, match="holds no figure.nc"):
        figures.redraw(tmp_path)
    (tmp_path / "figures").mkdir()
    results.save(drawn_from["claims"], tmp_path / "figures" / "orphan.nc", "claims")
    with pytest.raises(InputError, match=r"orphan\.nc: no function draws"):
        figures.redraw(tmp_path)


@pytest.mark.parametrize("limits", [(0.07, 0.21), (4.8, 5.3), (1, 300), (900, 2e6), (0.02, 0.06)])
def test_log_axes_always_have_plain_ticks(limits):
    """Between any limits there are at least two ticks, with plain numbers."""
    figure = mpl.figure.Figure()
    ax = figure.subplots()
    ax.set_xlim(*limits)
    log_ticks(ax, "x")
    names = [text.get_text() for text in ax.get_xticklabels()]
    assert len(names) >= 2
    for name, tick in zip(names, ax.get_xticks(), strict=True):
        number = float(name.replace("k", "e3").replace("M", "e6"))
        assert number == pytest.approx(tick, rel=1e-3)


def test_figure_survives_a_first_quick_run(planted):
    """One seed, one size, no memory, no g(r) of controls: still figures, without intervals."""
    found = planted(seeds=1)
    small = {"architecture": ["16-8-1", "128-40-4"]}
    accuracy = found["accuracy"].sel(**small, role=["teacher", "student", "control"])
    speed = found["speed"].sel(architecture=["16-8-1"]).drop_vars("memory_per_atom")
    figures.fig2_pareto(results.combine([accuracy, speed]))
    figures.fig3_capacity(accuracy)
    figures.fig5_cost(speed)
    figures.fig4_dynamics(found["history"].sel(role=["student", "control"]).isel(epoch=slice(0, 3)))


def test_label_capitalises_but_leaves_g_alone(drawn_from):
    """Axis labels start with a capital, except for g(r)."""
    ds = drawn_from["fig3_capacity"]
    assert label(ds.force_rmse, "force RMSE") == "Force RMSE (eV/Å)"
    assert label(ds.rdf_error, "g(r) error") == "g(r) error (Å)"


def test_a_student_that_explodes_is_drawn_as_that(drawn_from):
    """Without a run that lasted, and without a time, the panels say so instead of numbers."""
    ds = drawn_from["distilled"].copy()
    for name in ("energy_change", "step_time", "md_memory"):
        ds[name] = ds[name].where(ds[name] > np.inf).assign_attrs(ds[name].attrs)
    figure = figures.REDRAW["distilled"](ds)
    words = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert "no run lasted" in words
    assert words.count("not\nmeasured") == 4


def test_schematic_shows_the_architectures_it_is_given():
    """A run whose teacher is smaller than the paper's says so in Fig. 1."""
    figure = figures.fig1_schematic(figures.schematic_data(teacher="64-20-3"))
    words = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "64 features, 20 sens.,\n3 atom layers" in words
    assert "128 features" not in words


def test_steps_timed_as_a_whole_are_one_bar(planted):
    """On a device a step has no parts: its total is drawn, and the legends say where MD stayed."""
    speed = planted(seeds=1)["speed"]
    parts = {"backend": "fused", "component": ["neighbor_list", "model", "integrator"]}
    speed.step_time.loc[parts] = np.nan
    stayed = (speed.backend == "fused") & (speed.n_parameters > 0) & (speed.n_atoms > 0)
    speed["time_on_device"] = stayed.astype(float)
    speed = schema.describe(speed, "speed")
    drawn = figures.step_breakdown(speed)
    wide = [bar.get_width() for bar in drawn.axes[-1].patches]
    total = speed.step_time.sel(backend="fused", component="total", n_atoms=4000)
    assert set(np.round(total.median("repeat").values, 6)) <= set(np.round(wide, 6))
    assert "whole step" in [text.get_text() for text in drawn.legends[0].get_texts()]
    legend = [text.get_text() for text in figures.fig5_cost(speed).axes[0].get_legend().get_texts()]
    assert [", on the device" in text for text in legend] == [False, True]


def test_sizes_that_were_not_timed_count_for_memory_alone(planted):
    """They are points beside the line, no bars, and the exponent of memory counts them."""
    found = planted(seeds=1)
    speed = found["speed"].drop_sel(backend="fused")
    labels = speed.architecture.values.tolist()
    alone = {"architecture": labels[1]}
    speed.step_time.loc[alone] = np.nan
    memory = speed.memory_per_atom.sel(backend="stock")
    panel = figures.fig5_cost(speed).axes[1]
    np.testing.assert_allclose(panel.lines[0].get_ydata(), memory.drop_sel(alone))
    points = np.ma.compressed(panel.collections[0].get_offsets()[:, 1])
    assert memory.sel(alone).item() in points
    rows = figures.step_breakdown(speed).axes[0].get_yticklabels()
    assert [row.get_text() for row in rows] == [name for name in labels if name != labels[1]]
    n = {
        cost: evidence.find(evidence.cost_slope(cost, "stock"), {"speed": speed}).interval.n
        for cost in ("memory", "time")
    }
    assert n == {"memory": len(labels), "time": len(labels) - 1}


def test_a_size_whose_memory_alone_was_measured_has_no_cost_beside_accuracy(planted):
    """Notebook 05 measures sizes that nobody trained, too."""
    found = planted()
    untrained, *trained = found["accuracy"].architecture.values.tolist()
    accuracy = found["accuracy"].sel(architecture=trained)
    ds = figures.cost_accuracy_data(accuracy, found["speed"], linear_ace(), threads=1)
    assert set(trained) <= set(ds.architecture.values)
    assert untrained not in ds.architecture


def test_cost_and_accuracy_come_from_the_same_split(planted):
    """Students stand for their architecture, engines keep their threads, and splits must agree."""
    found, ace = planted(), linear_ace()
    found["speed"].attrs["threads"] = 3  # as notebook 05 records it
    ds = figures.cost_accuracy_data(found["accuracy"], found["speed"], ace, threads=1)
    assert float(ds.threads.sel(family="stock")) == 3
    students = found["accuracy"].force_rmse.sel(role="student", architecture="128-40-4")
    fused = ds.force_rmse.sel(family="fused", architecture="128-40-4")
    np.testing.assert_array_equal(fused.sel(split=students.split), students.transpose("seed", ...))
    label = "order 3, degree 14"
    one = ds.sel(family="ace jax", architecture=label)
    expected = ace.step_time.sel(size=label, engine="jax", n_atoms=4000, threads=1).median()
    assert (one.step_time.item(), one.threads.item()) == (expected.item(), 1.0)
    assert "eam" not in ds.family
    other = ace.assign_attrs(split_sha256="b")
    with pytest.raises(InputError, match="different splits"):
        figures.cost_accuracy_data(
            found["accuracy"].assign_attrs(split_sha256="a"), found["speed"], other
        )
