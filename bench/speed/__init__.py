"""Speed of commands, estimates and plans."""
