"""Streamlit's entry point: the shell around the page that the address names.

`sparse-rep app --store S` starts it; the store's path comes in SPARSE_REP_STORE.
"""

from sparse_rep.app.shell import run

run()
