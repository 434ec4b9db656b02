"""Dictionaries on disk: SAELens' layout in and out, sparsify's and dictionary_learning's in."""
