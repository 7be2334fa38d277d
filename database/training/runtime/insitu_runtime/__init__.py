"""Runs ML apps inside a database session, or outside it on the same data.

The modules are plain Python: those that query take a database object with two
methods, so that everything can be tested without a server.
"""
