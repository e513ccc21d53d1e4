"""Weights and biases chosen by what the layer makes of them: scales, rounding, means."""
