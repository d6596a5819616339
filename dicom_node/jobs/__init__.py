"""Workers that claim and finish jobs. Nothing here knows a kind of job."""
