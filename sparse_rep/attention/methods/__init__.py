"""Sparse-attention methods: one file a family, found by file, so that adding one is adding one.

A family's file holds, for each method, a config (whose defaults are the paper's) and a final `Method`. `registry` finds them.
What several families share is in `parts`.
"""
