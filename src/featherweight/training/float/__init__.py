"""What float operators compute while they are trained."""
