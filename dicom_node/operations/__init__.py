"""What IT looks at before and while the node runs: checks, the pre-flight, the state of studies."""
