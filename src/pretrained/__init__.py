"""Pretrained models as their libraries publish them: files of the Hugging Face hub, and the images that models expect.

`datasets`, `models` and `training` import it; it imports the modules directly in `src` and what is below them. Begin
with `hub.py`.
"""
