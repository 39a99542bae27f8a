"""What is seen of a network while it runs: the chain of its units, whatever architecture it is of."""
