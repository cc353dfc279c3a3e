"""The sample: The Complete Journey, a year of purchases of 2,469 households, and a journey over it."""
