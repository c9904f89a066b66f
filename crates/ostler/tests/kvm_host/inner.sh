#!/bin/sh
# Runs in the guest: uses its disk and its card, and shows what its kernel complains about.
dmesg -n 1
echo "OSTLER-GUEST-UP linux $(uname -r) cpus $(nproc)"
tries=100
while [ ! -b /dev/vda ] && [ $tries -gt 0 ]; do
	tries=$((tries - 1))
	usleep 100000
done
connect() {
	ip address add 10.98.0.2/24 dev eth0
	ip link set eth0 up
}
connect
echo "DISK-READ $(sha256sum </dev/vda)"
dd if=/dev/vda of=/dev/vda bs=1M count=2 seek=6 conv=notrunc,fsync 2>/dev/null
echo "DISK-WRITTEN $?"
echo "PING $(ping -c 3 -s 65000 -W 20 10.98.0.1 | grep received)"
echo "SENT $(nc 10.98.0.1 7 </dev/vda)"
echo "RECEIVED $(nc 10.98.0.1 8 </dev/null | sha256sum)"
# The driver leaves the card and takes it again: the rings go back and are handed over once more.
card=$(basename "$(readlink -f /sys/class/net/eth0/device)")
echo "$card" >/sys/bus/virtio/drivers/virtio_net/unbind
echo "$card" >/sys/bus/virtio/drivers/virtio_net/bind
connect
echo "RECEIVED-AGAIN $(nc 10.98.0.1 8 </dev/null | sha256sum)"
echo "CARD-ERRORS $(cat /sys/class/net/eth0/statistics/*_errors | sort -u)"
echo "LOOKED $(nc 10.98.0.1 9 </dev/null)"
dmesg -r | grep -E '^<[0-4]>' | sed 's/^/LOG /'
echo "LOG-END"
