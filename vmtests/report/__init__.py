"""What people look at. Everything here reads run records and nothing else."""
