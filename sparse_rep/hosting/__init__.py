"""Models we can look inside: loading, hook names, and views of a model as changed."""
