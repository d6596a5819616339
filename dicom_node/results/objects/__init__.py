"""One module for each kind of result object: SR, SC, GSPS, SEG, PDF and KOS, with what only they share.

The kinds: `sr` (report), `sc` (pictures), `gsps` (marks), `seg` (outlines), `pdf` (page), `kos` (key images). Shared:
`sizes` (a finding's size in mm), `planes` (where frames lie in the patient), `grayscale` (how an image is shown),
`page` (the layout of the page), `report_text` (an SR as plain text).
"""
