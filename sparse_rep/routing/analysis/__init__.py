"""What routers do, counted in SQL over the store, each figure with its null and its interval."""
