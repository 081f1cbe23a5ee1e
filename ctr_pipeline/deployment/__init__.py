"""A spec bound to its logs, its key and its data root."""
