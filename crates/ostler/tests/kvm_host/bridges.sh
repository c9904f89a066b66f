#!/bin/sh
# Runs in the host made in software, before the script that makes a bridge: what starts three guests at it. What they say goes to files
# first: nothing may come between two of its words.
dmesg -n 1
ip link set lo up

net() { ostler net --ovs-run /ovs/run "$@" || echo "FAILED ostler net $*"; }

# Ends the host, with what the guests said.
give_up() {
	echo "$1"
	cat /tmp/said*
	poweroff -f
}

# A host that hangs is shown as far as it came, and ends.
(
	sleep 480
	give_up "HUNG"
) &

# guest NUMBER ROLE
guest() {
	[ -p "/tmp/in$1" ] || mkfifo "/tmp/in$1"
	ostler run --accel kvm --memory 256M --no-reboot --net "tap=tap$1,mac=52:54:00:96:00:0$1" --kernel /guest/vmlinuz \
		--initrd /guest/initrd.img --append "console=ttyS0 panic=-1 quiet role=$2" \
		<>"/tmp/in$1" >"/tmp/said$1" 2>&1 &
	echo $! >"/tmp/pid$1"
}

# await NUMBER WORD SECONDS: until the guest has said it. Status 1 if it ends, or says nothing of the kind for so long.
await() {
	tries=$3
	until grep -q "$2" "/tmp/said$1"; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] && kill -0 "$(cat "/tmp/pid$1")" 2>/dev/null || return 1
		sleep 1
	done
}

# start NUMBER ROLE WORD: starts a guest, and waits until it is up. Here a kernel that boots may meet an interrupt where there can be none
# (docs/tests.md); such a guest is started again.
start() {
	starts=4
	guest "$1" "$2"
	until await "$1" "$3" 90; do
		starts=$((starts - 1))
		[ $starts -gt 0 ] || give_up "DIED guest $1"
		echo "AGAIN guest $1: $(tail -n 1 "/tmp/said$1")"
		kill -9 "$(cat "/tmp/pid$1")" 2>/dev/null
		# The tap is free when the guest's own process is gone.
		sleep 2
		guest "$1" "$2"
	done
}

# expect NUMBER WORD
expect() { await "$1" "$2" 120 || give_up "DIED guest $1, which was to say $2"; }

# three_guests BRIDGE: those at tap1 and tap2 are in VLAN 10, the one at tap3 on a trunk. They end with the host.
three_guests() {
	start 1 first FIRST-UP
	start 2 second SECOND-UP
	echo >/tmp/in2
	expect 2 SECOND-TALKED
	net port set "$1" tap2 --vlan 20
	echo >/tmp/in2
	expect 2 SECOND-APART
	start 3 third THIRD-UP
	echo >/tmp/in3
	expect 3 THIRD-DONE
	echo "BOOT bridge"
	cat /tmp/said2 /tmp/said3
	echo "THREADS $(ps | grep -c '[v]host-')"
	net --json show "$1" | tr -d '\n' | sed 's/^/BRIDGE /'
	echo
	echo "BOOT-END"
}

# A guest that only sleeps, see outer.sh.
ostler run --accel kvm --memory 16M --kernel /guest/tiny </dev/null >/dev/null 2>&1 &
