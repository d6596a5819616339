"""What other stations ask of this AE: associations, C-STORE, MPPS and storage commitment."""
