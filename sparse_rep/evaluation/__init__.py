"""How good a dictionary is: reconstruction on held-out text, and what splicing it in costs the model."""
