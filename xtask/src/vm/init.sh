#!/bin/sh
# The first process of the test machine, or the service of systemd in it (vm.service): mounts what a Debian has, as far as
# systemd does not, runs /in/run.sh, says how that ended, and powers off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
if [ $$ = 1 ]; then
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
    mkdir -p /dev/pts /dev/shm
    mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    mount -t tmpfs -o mode=755 tmpfs /run
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount --make-rshared /
    ln -sfn /proc/self/fd /dev/fd
    ln -sfn fd/0 /dev/stdin
    ln -sfn fd/1 /dev/stdout
    ln -sfn fd/2 /dev/stderr
    ip link set lo up
    # A cgroup that has children with controllers may have no processes itself.
    mkdir /sys/fs/cgroup/init
    echo 1 >/sys/fs/cgroup/init/cgroup.procs
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
    done
fi
mkdir -p /dev/mqueue /in
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o mode=1777 tmpfs /tmp
hostname vm
modprobe -a virtio_blk overlay tun veth 2>/dev/null
mount -o ro /dev/vda /in
echo "the machine is up after $(cut -d' ' -f1 /proc/uptime) s"
sh /in/run.sh
code=$?
echo "the machine ends after $(cut -d' ' -f1 /proc/uptime) s"
# The emulator's own status says nothing of what ran in it.
echo "$code" >/dev/ttyS1
sync
sleep 0.1
busybox poweroff -f
