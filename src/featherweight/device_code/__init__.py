"""What a microcontroller's firmware needs of a model: its bytes, its operators, its arena, and a test of itself."""
