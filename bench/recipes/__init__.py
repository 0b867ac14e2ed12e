"""How many training files and model names of other projects are read."""
