# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated snapd and MicroK8s of one lab host (standard library only)."""
