"""A live transformers model while it is pruned: interception, shortened prompts, positions, what comes back."""
