"""Float graphs into equivalent float graphs."""
