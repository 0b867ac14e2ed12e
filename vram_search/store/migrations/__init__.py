"""How the tables came to be: Alembic's script folder, found by `database.py`, never imported."""
