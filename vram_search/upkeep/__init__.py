"""Keeps a database whole: check, backup, repair, move and export of the record and its files."""
