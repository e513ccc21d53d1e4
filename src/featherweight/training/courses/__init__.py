"""Courses of training: whole runs, single blocks, and the trial of a learning rate."""
