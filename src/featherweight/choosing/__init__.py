"""Choosing: what each part of a model costs in each form, and the file that fits a budget best."""
