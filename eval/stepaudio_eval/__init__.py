"""Evaluation of stepaudio models."""
