"""The paper's claims: each with the range it asserts and the measure that tests it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from kdlib.claims.evidence import (
    Measure,
    best_smaller_student,
    cost_ratio,
    cost_slope,
    error_ratio,
    front_ratio,
    learning_drift,
    learning_ratio,
    rdf_correlation,
)
from kdlib.results import schema

#: All results that the paper gives as numbers, in section 3.5: name -> (value, spread, unit).
PAPER: dict[str, tuple[float, float, str]] = {
    "teacher_energy_rmse": (0.38, math.nan, "eV"),
    "teacher_force_rmse": (0.092, math.nan, "eV/Angstrom"),
    "born_again_energy_rmse": (0.37, 0.02, "eV"),
    "born_again_force_rmse": (0.083, 0.003, "eV/Angstrom"),
}

#: Loss weights (w_E, w_F, w_A) of appendix A.1 by role.
WEIGHTS = {"teacher": (1, 10, 0), "student": (1, 30, 100), "control": (1, 10, 0)}
#: Loss weights in the last stage of Table 1.
LAST_STAGE = (1, 15, 0)
#: Epochs without improvement after which the learning rate is halved, and the training ends (A.1).
PATIENCE = {"lr_patience": 30, "stop_patience": 50}
#: Settings of the authors' published script that the paper does not state.
SCRIPT = {"batch_size": 64, "max_epochs": 500}


@dataclass(frozen=True)
class Margins:
    """Numbers for the paper's qualitative words."""

    minimal: float = 0.10
    """Largest relative gain that still counts as "minimally improved"."""
    comparable: float = 0.10
    """Largest relative difference that still counts as "comparable"."""
    constant: float = 0.20
    """Largest relative change over the training of a "roughly constant" factor."""
    worst_share: float = 1 / 3
    """Largest share of one test frame in the squared errors with which a comparison is judged:
    beyond it, the verdict would be about that frame.
    """
    floor: float = 0.02
    """A training is at its floor if twice its epochs lower the validation force RMSE by less than
    this share. Where one of half the epochs was run instead, its gain is the bound, since gains
    shrink as trainings grow longer; seeds differ by more than 2 %.
    """


DEFAULT = Margins()


@dataclass(frozen=True)
class Claim:
    """One claim."""

    name: str
    """Key in the audit."""
    section: str
    """Section of the paper; "ours" for a control that the paper lacks."""
    statement: str
    low: float
    """Lower end of the claimed range, in `unit`."""
    high: float
    measure: Measure = field(repr=False)
    paper: float = math.nan
    """The paper's value, NaN if it gives none."""
    unit: str = "1"
    figure: str = ""
    """Name of the figure that shows it."""

    @property
    def rule(self) -> str:
        """The claimed range in words."""
        if math.isinf(self.low):
            return f"interval below {self.high:.3g}"
        if math.isinf(self.high):
            return f"interval above {self.low:.3g}"
        return f"interval within {self.low:.3g} to {self.high:.3g}"


def claims(margins: Margins = DEFAULT) -> tuple[Claim, ...]:
    """All claims of the abstract and sections 3.1-3.5 and 4, in the paper's order."""
    return (
        *_abstract(),
        *_pareto(),
        *_capacity(margins),
        *_dynamics(margins),
        *_cost(),
        *_born_again(margins),
    )


def _below(
    name: str, section: str, statement: str, measure: Measure, figure: str, paper: float = math.nan
) -> Claim:
    """Claim that a ratio is below one."""
    return Claim(name, section, statement, -math.inf, 1.0, measure, paper, figure=figure)


def _abstract() -> Iterator[Claim]:
    yield _below(
        "student_beats_teacher",
        "abstract",
        "A student smaller than its teacher has a lower force RMSE than the teacher",
        best_smaller_student,
        "fig3_capacity",
    )
    for cost, words in (("time", "are faster in MD"), ("memory", "need less memory per atom")):
        for backend in schema.AUDITED_BACKENDS:
            yield _below(
                f"{cost}_vs_teacher_{backend}",
                "abstract",
                f"Models smaller than the teacher {words} ({backend}; ratio to the teacher)",
                cost_ratio(cost, backend),
                "fig5_cost",
            )


def _pareto() -> Iterator[Claim]:
    for other, section in (("control", "3.1, 4"), ("matched_control", "ours")):
        for cost in ("time", "memory"):
            yield _below(
                f"pareto_{cost}_{other}",
                section,
                f"At every {cost}, the best student has a lower force RMSE than the best "
                f"{schema.ROLE_NAMES[other]} (Pareto dominance; largest ratio)",
                front_ratio(cost, "student", other),
                "fig2_pareto",
            )


def _capacity(margins: Margins) -> Iterator[Claim]:
    for other, section in (("control", "3.2"), ("matched_control", "ours")):
        words = schema.ROLE_NAMES[other]
        yield _below(
            f"force_{other}",
            section,
            f"At equal capacity, students have a lower force RMSE than {words}s (ratio)",
            error_ratio("force_rmse", "student", other),
            "fig3_capacity",
        )
        yield Claim(
            f"energy_{other}",
            section,
            f"At equal capacity, the energy RMSE is improved, but only minimally, over {words}s "
            f"(ratio, by at most {margins.minimal:.0%})",
            1 - margins.minimal,
            1.0,
            error_ratio("energy_rmse", "student", other),
            figure="fig3_capacity",
        )
        yield _below(
            f"rdf_{other}",
            section,
            f"At equal capacity, the g(r) error against the own teacher is lower than that of "
            f"{words}s (ratio)",
            error_ratio("rdf_error", "student", other, "rdf"),
            "fig3_capacity",
        )
    yield _below(
        "rdf_other_teachers",
        "ours",
        "The g(r) error against teachers of other seeds, which flatters no student, is lower than "
        "that of controls (ratio)",
        error_ratio("rdf_error_other_teachers", "student", "control", "rdf"),
        "fig3_capacity",
    )
    yield Claim(
        "rdf_correlation",
        "3.2, 4",
        "Force RMSE correlates with the g(r) error (rank correlation)",
        0.0,
        math.inf,
        rdf_correlation,
        figure="fig3_capacity",
    )


def _dynamics(margins: Margins) -> Iterator[Claim]:
    for other, section in (("control", "3.3"), ("matched_control", "ours")):
        words = schema.ROLE_NAMES[other]
        yield _below(
            f"learning_{other}",
            section,
            f"Students learn faster than {words}s: lower validation force RMSE at equal epoch "
            "(ratio)",
            learning_ratio("student", other),
            "fig4_dynamics",
        )
    yield Claim(
        "learning_constant",
        "3.3",
        "The factor to the controls is roughly constant over the training (late ratio over "
        f"early, within {margins.constant:.0%})",
        1 / (1 + margins.constant),
        1 + margins.constant,
        learning_drift("student", "control"),
        figure="fig4_dynamics",
    )


def _cost() -> Iterator[Claim]:
    for cost, words in (("time", "Time per MD step"), ("memory", "Memory")):
        for backend in schema.AUDITED_BACKENDS:
            yield Claim(
                f"{cost}_with_size_{backend}",
                "3.4",
                f"{words} per atom grows with the number of weights ({backend}; exponent)",
                0.0,
                math.inf,
                cost_slope(cost, backend),
                figure="fig5_cost",
            )


def _born_again(margins: Margins) -> Iterator[Claim]:
    for target in ("force", "energy"):
        variable = f"{target}_rmse"
        yield Claim(
            f"same_size_{target}",
            "3.5",
            f"With the static loss, a student of the teacher's size has a comparable {target} "
            f"RMSE (ratio, within {margins.comparable:.0%})",
            1 / (1 + margins.comparable),
            1 + margins.comparable,
            error_ratio(variable, "same_size_student", "teacher"),
            figure="born_again",
        )
    for target in ("force", "energy"):
        variable = f"{target}_rmse"
        yield _below(
            f"born_again_{target}_teacher",
            "3.5",
            f"The Born-Again student has a lower {target} RMSE than its teacher (ratio)",
            error_ratio(variable, "born_again", "teacher"),
            "born_again",
            PAPER[f"born_again_{variable}"][0] / PAPER[f"teacher_{variable}"][0],
        )
        yield _below(
            f"born_again_{target}_control",
            "ours",
            f"The Born-Again student has a lower {target} RMSE than its own control, trained on "
            "the same schedule without labels (ratio)",
            error_ratio(variable, "born_again", "born_again_control"),
            "born_again",
        )
