"""Physics engines behind the simulated people."""
