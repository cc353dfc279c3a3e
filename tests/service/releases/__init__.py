"""Stores that released versions wrote, and what they answered."""
