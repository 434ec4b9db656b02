"""One file a verb. `main.py` finds them; each offers `register(app)` and imports what is heavy inside its function."""
