"""Post-training quantization: from a float graph and what was measured on it to integers."""
