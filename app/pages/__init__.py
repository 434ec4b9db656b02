"""One module a page: TITLE, ICON, ORDER, PATH, HELP and `render()`; pages with the same SECTION share a menu.

`shell.py` finds them; pages only place widgets.
"""
