"""Notebooks run in order, with a profile's parameters; what is up to date is skipped."""

from kdlib.pipeline.runner import Outcome, StepFailed, execute, notebooks_folder, run

__all__ = ["Outcome", "StepFailed", "execute", "notebooks_folder", "run"]
