"""What a device can do: operators and forms, limits, what its runtime computes in which way."""
