"""What `streamlit run` is pointed at. In a folder of its own: Streamlit takes a `pages/` beside its script for its own kind."""
