"""A float graph as a Keras model, made of any model."""

from __future__ import annotations

from featherweight import training
from featherweight.tasks.front import opening

graph_model = opening(training.graph_model, model=None)
