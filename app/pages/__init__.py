"""One module a page: TITLE, ICON, ORDER, PATH, HELP and `render()`. `main.py` finds them; pages only place widgets."""
