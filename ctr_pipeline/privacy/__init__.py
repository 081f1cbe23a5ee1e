"""Forgetting a user: which rows are the user's, their removal, and whom ingestion leaves out from then on."""
