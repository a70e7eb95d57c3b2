# SPDX-License-Identifier: GPL-3.0-or-later
"""Exit 0 once the API answers to the kubeconfig (second argument) and the programs (third and on) are there.

The first argument is the number of seconds to wait for the API.
"""

import os
import sys
import time

import kubernetes

patience, kubeconfig, *programs = sys.argv[1:]
missing = [path for path in programs if not os.access(path, os.X_OK)]
if missing:
    sys.exit(f"{', '.join(missing)} missing")
if not os.path.exists(kubeconfig):
    sys.exit(f"{kubeconfig} is missing: MicroK8s is not installed here")
end = time.monotonic() + float(patience)
while True:
    try:
        client = kubernetes.config.new_client_from_config(kubeconfig)
        # Not by CoreV1Api, which takes longer to load than all the rest.
        request = client.param_serialize(
            "GET", "/api/v1/namespaces", query_params=[("limit", 1)], auth_settings=["BearerToken"]
        )
        status = client.call_api(*request, _request_timeout=5).status
        # 403: it knows who asks, who just may not see that; a tenant operator's login is enough for tenants.
        if status in (200, 403):
            break
        trouble = f"status {status}"
    except Exception as error:  # whatever it is, it is the answer to "is it ready"
        trouble = type(error).__name__
    if time.monotonic() >= end:
        sys.exit(f"the Kubernetes API does not answer: {trouble}")
    time.sleep(1)
