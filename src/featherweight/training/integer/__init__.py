"""What integer operators compute while they are trained: a runtime's integers, with gradients."""
