"""The browser: Streamlit pages over a store. Reads through `sparse_rep.store` only and never imports torch."""
