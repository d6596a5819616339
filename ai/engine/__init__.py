"""The process that a model runs in, and the devices that models share."""
