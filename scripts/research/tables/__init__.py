"""Measures the tables of the EL-attention paper: multi-head attention and EL side by side."""
