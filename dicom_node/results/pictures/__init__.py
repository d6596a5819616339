"""What is drawn on a picture: marks, captions, heat maps, the legend."""
