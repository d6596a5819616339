"""Fuzzing: sends hundreds of thousands of hostile inputs to the node, and checks what it answers."""
