"""What the node sends without being asked: results, and requests for storage commitment."""
