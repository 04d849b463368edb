"""A run's folder and what watches the run: checkpoints, lock, metrics, where the time goes."""
