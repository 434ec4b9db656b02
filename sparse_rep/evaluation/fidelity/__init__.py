"""Experiments on data whose true features are known: what a method recovers, beside what it reconstructs."""
