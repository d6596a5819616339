"""What the node owes others unasked: results are sent, and storage commitment is asked for."""
