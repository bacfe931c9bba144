"""Timings that anyone can run again."""
