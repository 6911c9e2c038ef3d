"""Public tools for tests: simulated hospitals and a fault injector."""
