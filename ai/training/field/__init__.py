"""Trains the network of `ai.anatomy.field` on phantoms, whose lungs and body are known, and on films without outlines.

The films' outlines are the network's own, averaged over views of a film, in a second stage. Films turned, inverted and
cut to pieces teach it what is no upright frontal chest.
"""
