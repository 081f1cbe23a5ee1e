"""What happens beside a model while it serves: the log of its inputs, and whether these are what training would make."""
