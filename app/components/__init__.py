"""Pieces of HTML that several pages share. They return strings; a page decides where they go."""
