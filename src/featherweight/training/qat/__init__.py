"""Quantization-aware training: integer graphs as Keras models."""
