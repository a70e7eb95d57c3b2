# SPDX-License-Identifier: GPL-3.0-or-later
"""Benchmarks: every module here with a function `run` is one, and `python -m tests.bench` writes what they find.

What is promised are ratios within one run, and counts; times are quoted to give an idea.
"""
