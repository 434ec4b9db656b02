"""The training loop, and the banks that take its steps.

`trainer.train` is the loop; `grouping` decides which coders step together; a bank steps them. `autograd_bank` is what every
other bank must agree with; the rest are faster where they apply: `small_bank` (many small coders by vmap), `topk_bank` and
`pursuit_bank` (CUDA, gradients written out), `sharded_bank` (latents divided among ranks).
"""
