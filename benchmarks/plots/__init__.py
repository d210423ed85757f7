"""Plots of benchmarks for the documentation."""
