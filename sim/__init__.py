"""Simulated people and generated motion."""
