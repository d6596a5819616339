"""Is a study whole, and which routes take it?"""
