"""Pure functions: rows in, a plotly figure out. Nothing here knows Streamlit or the store."""
