"""Trials as people read them: tables and words."""
