#!/bin/sh
# Runs in the host made in software. What the guest says goes to a file first: nothing may come between two of its words.
dmesg -n 1
ip link set lo up
tunctl -t tap0 >/dev/null
ip address add 10.98.0.1/24 dev tap0
ip link set tap0 up
nc -ll -p 7 -e sha256sum &
nc -ll -p 8 -e /bin/send &
nc -ll -p 9 -e /bin/look &

# A guest that hangs is shown as far as it came, and the host ends.
(
	sleep 480
	echo "HUNG"
	cat /tmp/said
	ostler top --json /run/control
	poweroff -f
) &

# Boots Debian with the options behind the name of the boot.
boot() {
	echo "BOOT $1"
	shift
	cp /guest/disk.img /tmp/disk.img
	ostler run "$@" --memory 512M --no-reboot --control /run/control --disk /tmp/disk.img --net tap=tap0 \
		--kernel /guest/vmlinuz --initrd /guest/initrd.img --append 'console=ttyS0 panic=-1 quiet' \
		</dev/null >/tmp/said 2>&1
	status=$?
	cat /tmp/said
	echo "STATUS $status"
	cat /tmp/looks
	echo "DISK-AFTER $(sha256sum </tmp/disk.img)"
	echo "BOOT-END"
	rm -f /tmp/looks
}

# Starts a tiny guest on the accelerator $1 and counts the descriptors of /dev/vhost-net that processes have.
tiny() {
	others=$(pidof ostler | wc -w)
	ostler run --accel "$1" --memory 16M --net tap=tap0 --kernel /guest/tiny </dev/null >/tmp/tiny 2>/tmp/errors &
	pid=$!
	tries=600
	while ! grep -q up /tmp/tiny && [ $tries -gt 0 ]; do
		tries=$((tries - 1))
		usleep 100000
	done
	echo "TINY $1 $(cat /tmp/tiny) $(ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c /dev/vhost-net)"
	cat /tmp/errors
	kill $pid
	usleep 200000
	kill $pid
	wait $pid
	# The tap is free when the guest's own process is gone, a moment after the one that was waited for.
	while [ "$(pidof ostler | wc -w)" -gt "$others" ]; do
		usleep 100000
	done
}

# A guest that only sleeps. Linux patches its scheduler when the first virtual machine is made and when the last one is gone,
# and the emulator may miss that: the host's processors then hang (docs/tests.md). This one keeps it from happening all the time.
ostler run --accel kvm --memory 16M --kernel /guest/tiny </dev/null >/dev/null 2>&1 &

boot vhost --accel auto --cpus 1
mv /dev/vhost-net /dev/vhost-net-away
boot worker --accel kvm --cpus 2 --cpu x86-64-v2
mv /dev/vhost-net-away /dev/vhost-net
tiny kvm
tiny soft
ostler doctor --selftest >/tmp/selftest 2>&1
status=$?
cat /tmp/selftest
echo "SELFTEST-STATUS $status"
