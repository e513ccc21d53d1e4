"""Files whose weights are encoded, where the runtime decodes them while it runs."""
