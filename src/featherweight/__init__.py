"""Neural networks made small and fast."""
