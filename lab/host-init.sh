#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# First program of a simulated host: builds its file system and becomes its systemd.
# Runs as PID 1 in namespaces of its own (pid, mount, uts, ipc, cgroup) and in the host's network namespace.
# Usage: host-init.sh NAME HOST_DIR LOWER_LAYERS
set -eu

name=$1
dir=$2
layers=$3
new=$dir/root

bare() { # TYPE OPTIONS PLACE
    mount -t "$1" -o "nosuid,$2" "$1" "$new/$3"
}

readonly_bind() { # PATH: it stays readable, but belongs to the machine
    mount --bind "$new/$1" "$new/$1"
    mount -o remount,ro,bind "$new/$1"
}

mount -t overlay "tokenlabs-$name" -o "lowerdir=$layers,upperdir=$dir/upper,workdir=$dir/work" "$new"

bare proc nodev,noexec proc
bare sysfs ro,nodev,noexec sys
bare cgroup2 nodev,noexec sys/fs/cgroup
bare tmpfs mode=755,size=64m run
bare tmpfs mode=1777,size=512m tmp
bare tmpfs mode=755,size=1m dev

for node in null zero full random urandom tty; do
    : > "$new/dev/$node"
    mount --bind "/dev/$node" "$new/dev/$node"
done
mkdir "$new/dev/pts" "$new/dev/shm"
bare devpts newinstance,ptmxmode=0666,mode=620,gid=5 dev/pts
bare tmpfs nodev,mode=1777,size=64m dev/shm
ln -s pts/ptmx "$new/dev/ptmx"
ln -s /proc/self/fd "$new/dev/fd"
ln -s /proc/self/fd/0 "$new/dev/stdin"
ln -s /proc/self/fd/1 "$new/dev/stdout"
ln -s /proc/self/fd/2 "$new/dev/stderr"

# Kernel settings are the machine's, except those of the network, which each host has for itself.
mount --bind "$new/proc/sys/net" "$dir/net"
readonly_bind proc/sys
mount --move "$dir/net" "$new/proc/sys/net"
[ ! -e "$new/proc/sysrq-trigger" ] || readonly_bind proc/sysrq-trigger

# How much memory there is, is said of the simulated machine; a file of the host's own, so that faults can change it.
. "$new/usr/lib/snapsim/face"
sed -e "s/^MemTotal:.*/MemTotal:       $memory kB/" -e "s|^MemFree:.*|MemFree:        $((memory / 2)) kB|" \
    -e "s|^MemAvailable:.*|MemAvailable:   $((memory / 10 * 9)) kB|" /proc/meminfo > "$dir/meminfo"
mount --bind "$dir/meminfo" "$new/proc/meminfo"

# A host has swap of its own, as far as it can see; none is in use before its systemd says so.
head -n 1 /proc/swaps > "$dir/swaps"
mount --bind "$dir/swaps" "$new/proc/swaps"

# Each boot has its own id: that is how one sees from outside that a host was rebooted.
cat /proc/sys/kernel/random/uuid > "$dir/boot_id"
mount --bind "$dir/boot_id" "$new/proc/sys/kernel/random/boot_id"

hostname "$name"
cd "$new"
pivot_root . .
umount -l .
cd /

exec env -i container=lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-mac_admin,-mac_override,-syslog,-bpf,-perfmon \
    /lib/systemd/systemd --log-target=journal
