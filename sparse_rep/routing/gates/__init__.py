"""Gates of mixtures of experts as their papers define them, each a drop-in router for `routing.small_moe.MoeLayer`."""
