"""Runs that survive want of memory and the death of their process; knows no model, no framework."""
