"""How the bundles that ship were trained. Nothing here runs in a node."""
