"""Measures of a training step, for any model: needs torch and nothing of this project."""
