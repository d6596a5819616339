"""The pictures of a run: which there are (`scene`, `slices`), what is drawn on them, and the legend below them.

On the image: `overlay` (what lies on each frame), `drawing` (boxes, outlines), `labels` (where labels go), `heat_maps`,
`palette` (colours). Below it: `captions` (the words), `legend` (their layout). `typeface` is the font. The DICOM object
is :mod:`objects.sc`.
"""
