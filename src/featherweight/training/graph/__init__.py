"""A float graph as a Keras model: its variables, its forward pass, and the way back."""
