"""Which tensor of a stopped step broke first, and what is kept of the step."""
