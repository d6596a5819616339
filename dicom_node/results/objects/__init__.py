"""One module a kind of result object: SR, SC, GSPS, SEG, PDF, KOS."""
