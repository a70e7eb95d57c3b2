# SPDX-License-Identifier: GPL-3.0-or-later
"""A rehearsal stage for the platform: simulated hosts around a real Kubernetes API, on one Linux machine."""
