"""What pruning in training and pruning a finished model share: kernels, which of them are pruned, and how much."""
