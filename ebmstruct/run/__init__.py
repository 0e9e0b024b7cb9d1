"""What the command does: task files, runs, run folders, reports, predictors."""

from ebmstruct.run.predictor import Prediction, Predictor, load

__all__ = ["Prediction", "Predictor", "load"]
