# SPDX-License-Identifier: GPL-3.0-or-later
"""The addons of MicroK8s' core repository: how they are seen, and what the ones in use here create."""
