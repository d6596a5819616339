"""Where the body is in a chest radiograph: body and lung field, midline, side, and whether it is a frontal chest."""
