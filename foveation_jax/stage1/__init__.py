"""Stage 1 of a perceptual system over a whole data set: what each system lets through, on disk.

`perceive` shows a split to a system once, `on_the_fly` does so within every training step,
`systems.look` does it for an experiment, with the blurs matched to the texture, and
`export` writes pictures one for one.
"""

from foveation_jax.stage1.perceived import on_the_fly, perceive, perceive_batch

__all__ = ["on_the_fly", "perceive", "perceive_batch"]
