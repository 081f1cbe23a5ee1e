"""What knows the ranker and its inputs: batches, features, the forward pass."""
