"""Mixtures of experts: which experts a router chose, gates as in the papers, and what routing means."""
