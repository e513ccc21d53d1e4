"""Sparsity of lowered graphs: weights set to zero without training, stored sparsely, channels taken out."""
