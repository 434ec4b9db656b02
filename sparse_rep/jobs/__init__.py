"""Long work in small, whole pieces: tasks, workers, executors, and the runs they fill."""
