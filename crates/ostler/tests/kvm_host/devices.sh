#!/bin/sh
# Runs in a guest on KVM: what comes to it and goes, one after the other. "on" at its console ends it.
dmesg -n 1
cpus=/sys/devices/system/cpu
there() { until [ -e "$1" ]; do usleep 20000; done; }
gone() { while [ -e "$1" ]; do usleep 20000; done; }
total() { sed -n 's/MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo; }
mkdir -p /memory /share /t

# A file of the host as memory, without the page cache.
there /dev/pmem0
mount -t ext4 -o dax=always /dev/pmem0 /memory
grep -o 'ext4 .*dax[a-z=]*' /proc/mounts
cp /bin/busybox /memory/busybox
/memory/busybox echo a program of the memory runs
yes 'the quick brown fox' | head -c 4194304 >/memory/file
sync
echo "written $(md5sum </memory/file)"
umount /memory

# A folder of the host.
if mount -t virtiofs src /share 2>/dev/null; then
	echo "host $(md5sum </share/from-host)"
	head -c 1000000 /dev/urandom >/share/from-guest
	echo "guest $(md5sum </share/from-guest)"
	mv /share/from-host /share/renamed
	umount /share
fi

# A CPU.
echo "alone: present $(cat $cpus/present)"
there $cpus/cpu1/online
echo 1 >$cpus/cpu1/online
there $cpus/cpu1/topology
echo "at work on CPU $(taskset 2 cut -d' ' -f39 /proc/self/stat)"
taskset 2 sh -c 'n=0; while [ $n -lt 2000 ]; do n=$((n+1)); done; echo "counted to $n"'
echo "in use: online $(cat $cpus/online)"
gone $cpus/cpu1
echo "gone: present $(cat $cpus/present)"

# Memory.
echo online_movable >/sys/devices/system/memory/auto_online_blocks
first=$(total)
echo "small"
until [ "$(total)" -ge $((first + 125000)) ]; do usleep 50000; done
mount -t tmpfs -o size=300m none /t
dd if=/dev/zero of=/t/file bs=1M count=200 2>/dev/null
echo "filled $(wc -c </t/file)"
umount /t
echo "let go"
until [ "$(total)" -le $((first + 20000)) ]; do usleep 50000; done
echo "small again"
read -r _ </dev/console
dmesg -n 8
dmesg
