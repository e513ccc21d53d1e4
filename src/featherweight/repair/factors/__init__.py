"""Factors of channels: what can take them up, and which ones integers lose least with."""
