"""Text as documents, corpora as tokens in windows, and the activations of a model on them."""
