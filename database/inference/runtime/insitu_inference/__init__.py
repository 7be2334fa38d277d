"""Predicts inside the inference database; imports nothing that trains."""
