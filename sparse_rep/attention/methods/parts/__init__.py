"""What several families of methods share: budgets, pooled blocks, the last queries' attention, ranked lines."""
