"""Programs that run in a process of their own, so that their abort ends nothing else."""
