"""The criteria language: what a criterion is, which ones are refused, and what each one means for one
value.
"""
