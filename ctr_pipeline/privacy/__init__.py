"""Forgetting a user: whose rows, where they lie, and who is left out from then on."""
