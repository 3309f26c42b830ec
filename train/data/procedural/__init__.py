"""Procedural assets: objects, looks, captions and edits, each a function of (seed, index).

`sample_spec(seed, index, split)` draws a description, `build(spec)` makes the mesh, `captions(spec)` says it in
words, `sample_edit(seed, index, split)` gives two assets that differ in one attribute and the instruction.
"""
