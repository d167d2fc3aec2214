"""Training: a recipe, one loop, a run folder that a killed run resumes from."""

from vidseg.training.config import TrainingConfig
from vidseg.training.recipe import load_config, recipes

__all__ = ["TrainingConfig", "load_config", "recipes"]
