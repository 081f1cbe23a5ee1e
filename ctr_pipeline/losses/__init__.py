"""Training losses over the labels that are known."""
