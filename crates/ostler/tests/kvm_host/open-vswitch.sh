#!/bin/sh
# Runs in the host made in software, after bridges.sh: Open vSwitch with its data path in the kernel.
mkdir -p /ovs/run
# Open vSwitch counts the processors anew after ten seconds, and takes it that it did so when the host started: before that it finds
# none, and its data path drops every frame that no flow is known for.
while [ "$(cut -d. -f1 /proc/uptime)" -le 10 ]; do sleep 1; done
export OVS_RUNDIR=/ovs/run OVS_LOGDIR=/ovs/run OVS_DBDIR=/ovs/run OVS_PKGDATADIR=/ovs
ovs() { LD_LIBRARY_PATH=/ovs/lib "$@"; }
ovs /ovs/ovsdb-server /ovs/conf.db --remote=punix:/ovs/run/db.sock --pidfile=/ovs/run/ovsdb-server.pid \
	--unixctl=/ovs/run/ovsdb.ctl 2>/tmp/ovsdb &
while [ ! -e /ovs/run/db.sock ]; do usleep 100000; done
ovs /ovs/ovs-vsctl --db=unix:/ovs/run/db.sock --no-wait init
ovs /ovs/ovs-vswitchd unix:/ovs/run/db.sock --pidfile=/ovs/run/ovs-vswitchd.pid 2>/tmp/vswitchd &
while [ ! -e /ovs/run/ovs-vswitchd.pid ]; do usleep 100000; done
net create ovs0 --kind ovs
for tap in tap1 tap2 tap3; do
	net tap add $tap
done
net port add ovs0 tap1 --vlan 10
net port add ovs0 tap2 --vlan 10
net port add ovs0 tap3 --trunk 10,20
three_guests ovs0
[ -e /sys/class/net/ovs-system ] && echo "DATA-PATH kernel"
