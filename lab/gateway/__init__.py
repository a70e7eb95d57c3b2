# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's data plane: it reads the cluster's objects and answers requests as the real gateway would.

Way of the data: API server -> ``kubeapi`` (list and watch) -> ``objects.Store`` -> ``translate`` (a pure
function to ``model.Config``) -> ``pipeline`` (one request, filter by filter) -> ``server`` (sockets).
"""
