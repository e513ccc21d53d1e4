"""Reference kernels that are too long to stand beside their records: products, hybrid rows, softmax, LSTM."""
