"""One trial's life: plan, probe, train in a subprocess, watched; and the search around it."""
