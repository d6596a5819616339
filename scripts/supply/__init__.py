"""What the node is made of, beside this repository: hashes, licences and the bill of materials of its packages."""
