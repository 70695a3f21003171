"""What a training step would need on TPUs that are not there: compiled for them ahead of time, and read, not run."""
