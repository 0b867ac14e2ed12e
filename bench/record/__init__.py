"""Records the fixtures of the tests on a GPU."""
