"""Several workers on one study: kills, and asks per second."""
