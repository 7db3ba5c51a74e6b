"""Measuring: metrics, coders to compare with, curves and reports."""
