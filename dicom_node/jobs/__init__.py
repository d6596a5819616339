"""Workers that claim, do and finish jobs of the queue. This package knows no kind of job."""
