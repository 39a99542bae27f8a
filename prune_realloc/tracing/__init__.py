"""Any network -> which positions of its parameters belong together: it is run once on labels instead of numbers."""
