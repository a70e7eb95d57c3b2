# SPDX-License-Identifier: GPL-3.0-or-later
"""MicroK8s' add-ons: volumes of hostpath-storage, addresses of MetalLB."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from lab.world import faults
from lab.world.actions import Action, Apply, Delete, Event, SetStatus
from lab.world.engine import Reconciler
from lab.world.store import Json, Store, created, deleting, notes, runs

PROVISIONER = "microk8s.io/hostpath"
REQUESTED = ("metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs")


# --- hostpath-storage
def claim(obj: Json, store: Store) -> Iterator[Action]:
    """A PersistentVolume for a claim of the class; binding is the controller-manager's."""
    if deleting(obj) or obj["spec"].get("volumeName") or not store.controller("hostpath-provisioner"):
        return
    storage_class = store.get("StorageClass", "", obj["spec"].get("storageClassName") or "")
    if not storage_class or storage_class["provisioner"] != PROVISIONER:
        return
    chosen = notes(obj).get("volume.kubernetes.io/selected-node")
    if storage_class.get("volumeBindingMode") == "WaitForFirstConsumer" and not chosen:
        return
    space, name, uid = obj["metadata"]["namespace"], obj["metadata"]["name"], obj["metadata"]["uid"]
    volume = f"pvc-{uid}"
    spec: Json = {
        "accessModes": obj["spec"]["accessModes"],
        "capacity": {"storage": obj["spec"]["resources"]["requests"]["storage"]},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": space, "name": name, "uid": uid},
        "hostPath": {
            "path": f"/var/snap/microk8s/common/default-storage/{space}-{name}-{volume}",
            "type": "DirectoryOrCreate",
        },
        "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy", "Delete"),
        "storageClassName": storage_class["metadata"]["name"],
    }
    if chosen:
        match = {"key": "kubernetes.io/hostname", "operator": "In", "values": [chosen]}
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": [match]}]}}
    meta = {
        "name": volume,
        "annotations": {
            "pv.kubernetes.io/provisioned-by": PROVISIONER,
            "hostPathProvisionerIdentity": chosen or "microk8s",
        },
    }
    yield Apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": spec}, "hostpath")


def volume(obj: Json, store: Store) -> Iterator[Action]:
    """Released volumes of the class are taken back."""
    released = (obj.get("status") or {}).get("phase") == "Released"
    if (
        released
        and notes(obj).get("pv.kubernetes.io/provisioned-by") == PROVISIONER
        and obj["spec"].get("persistentVolumeReclaimPolicy") == "Delete"
        and store.controller("hostpath-provisioner")
    ):
        yield Delete(obj)


# --- MetalLB
def _addresses(pool: Json) -> Iterator[str]:
    for text in pool["spec"].get("addresses") or []:
        if "-" in text:
            first, last = (ipaddress.ip_address(part.strip()) for part in text.split("-"))
            for number in range(int(first), int(last) + 1):
                yield str(ipaddress.ip_address(number))
        else:
            yield from map(str, ipaddress.ip_network(text, strict=False))


def current_addresses(service: Json) -> list[str]:
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return [entry["ip"] for entry in ingress if entry.get("ip")]


def in_use(store: Store, but: Json | None = None) -> set[str]:
    """Addresses that LoadBalancer Services hold."""
    mine = but["metadata"]["uid"] if but else None
    return {
        address
        for service in store.all("Service")
        if service["spec"].get("type") == "LoadBalancer" and service["metadata"].get("uid") != mine
        for address in current_addresses(service)
    }


def load_balancer(obj: Json, store: Store) -> Iterator[Action]:
    speaker = store.get("Deployment", "metallb-system", "controller")
    if deleting(obj) or not runs(speaker):
        return
    if obj["spec"].get("type") != "LoadBalancer":
        if current_addresses(obj):
            yield SetStatus(obj, {"loadBalancer": {"ingress": []}})
        return
    pools = sorted(store.all("IPAddressPool", "metallb-system"), key=created)
    offered = list(
        dict.fromkeys(address for pool in pools if pool["spec"].get("autoAssign", True) for address in _addresses(pool))
    )
    every = {address for pool in pools for address in _addresses(pool)}
    taken = in_use(store, but=obj)
    asked = next((notes(obj)[name] for name in REQUESTED if notes(obj).get(name)), obj["spec"].get("loadBalancerIP"))
    held = current_addresses(obj)
    if faults.hit(store, "no_address", obj["metadata"]["name"]):
        address, problem = None, "no available IPs"
    elif asked:
        wanted = asked.split(",")[0].strip()
        problem = "" if wanted in every else f'"{wanted}" is not allowed in config'
        problem = problem or (f"can't change sharing key: address {wanted} is in use" if wanted in taken else "")
        address = None if problem else wanted
    else:
        free = [item for item in [*(address for address in held if address in every), *offered] if item not in taken]
        address, problem = (free[0], "") if free else (None, "no available IPs")
    if address is None:
        yield Event(
            obj,
            "AllocationFailed",
            f"Failed to allocate IP for {obj['metadata']['name']!r}: {problem}",
            "metallb-controller",
        )
        if held:
            yield SetStatus(obj, {"loadBalancer": {"ingress": []}})
        return
    yield SetStatus(obj, {"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}})


RECONCILERS = [
    Reconciler("hostpath", "PersistentVolumeClaim", claim, frozenset({"StorageClass", "Deployment"})),
    Reconciler("hostpath", "PersistentVolume", volume, frozenset({"Deployment"})),
    Reconciler("metallb", "Service", load_balancer, frozenset({"IPAddressPool", "Deployment"})),
]
