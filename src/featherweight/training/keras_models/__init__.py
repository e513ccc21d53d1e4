"""What helps to train float Keras models that are quantized or pruned later."""
