#!/bin/sh
# Runs in the host made in software, after bridges.sh: a bridge of the kernel that filters VLANs.
net create br0 --kind bridge --vlan-filtering on
for tap in tap1 tap2 tap3; do
	net tap add $tap --network br0
done
net port set br0 tap1 --vlan 10
net port set br0 tap2 --vlan 10
net port set br0 tap3 --trunk 10,20
three_guests br0
