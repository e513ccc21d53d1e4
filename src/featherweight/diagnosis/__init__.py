"""Where a quantized model's error is made, what it costs at the output, and what each part of it is called."""
