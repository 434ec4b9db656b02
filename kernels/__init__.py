"""Sparse-coding kernels: tensors in, tensors out.

`sparse_rep.kernels.ops` holds the public operations; `reference` their specification in plain torch.
Nothing happens at import: this folder's bare name is also Hugging Face's `kernels`, and a guard here would confuse it.
"""
