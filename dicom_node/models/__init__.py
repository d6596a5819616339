"""The models that a node reads with: what is installed, where it comes from, how far two models agree.

`registry` (which version is current), `records` (the files of the store), `install` (add a bundle), `sources` (bring a
bundle from a folder, a zip file or an https address), `agreement` (compare two models), `users` (who runs a command).
"""
