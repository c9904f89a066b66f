#!/bin/sh
# Runs in the host made in software: the test program itself drives the guest.
dmesg -n 1
ip link set lo up

# A guest that hangs is shown as far as it came, and the host ends.
(
	sleep 480
	echo "HUNG"
	cat /tmp/devices
	poweroff -f
) &

# A guest that only sleeps, for the reason that outer.sh has.
ostler run --accel kvm --memory 16M --kernel /guest/tiny </dev/null >/dev/null 2>&1 &

tests --exact INSIDE --ignored --nocapture >/tmp/devices 2>&1
status=$?
cat /tmp/devices
echo "DEVICES-STATUS $status"
