"""Gates against each other on equal terms: the same data, experts, trials and steps for all."""
