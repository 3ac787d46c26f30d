"""The model: torch lives here and nowhere else."""
