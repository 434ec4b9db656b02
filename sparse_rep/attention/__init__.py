"""Sparse attention: mask estimators, exact streamed scores, and what each head of a model does."""
