"""Contracts of a training, for any module and loss: what must hold of a model, its loss, its optimizers and a step.

Needs torch and nothing of this project. ``ctr_pipeline.gradients.testing`` offers them to tests; before a training of the
ranker they are checked on the built trainer.
"""
