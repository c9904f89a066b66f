#!/bin/sh
# Runs in each of three guests; which one it is stands on the kernel's command line.
dmesg -n 1
role=$(sed 's/.*role=\([a-z]*\).*/\1/' /proc/cmdline)
connect() {
	ip address add "$1" dev eth0
	ip link set eth0 up
}
pings() { ping -c 3 "$@" | grep received; }
case $role in
first)
	connect 10.96.0.1/24
	nc -ll -p 7 -e md5sum &
	echo "FIRST-UP"
	read -r _ </dev/console
	;;
second)
	connect 10.96.0.2/24
	echo "SECOND-UP"
	read -r _ </dev/console
	echo "PING $(pings -W 60 10.96.0.1)"
	dd if=/dev/urandom of=/data bs=1M count=4 2>/dev/null
	echo "SENT $(md5sum </data)"
	echo "ARRIVED $(nc 10.96.0.1 7 </data)"
	echo "CARD-ERRORS $(cat /sys/class/net/eth0/statistics/*_errors | sort -u)"
	echo "SECOND-TALKED"
	read -r _ </dev/console
	echo "APART $(pings -W 2 10.96.0.1)"
	echo "SECOND-APART"
	read -r _ </dev/console
	;;
third)
	for module in llc stp garp mrp 8021q; do
		insmod /$module.ko
	done
	ip link set eth0 up
	for vlan in 10 20; do
		ip link add link eth0 name eth0.$vlan type vlan id $vlan
		ip link set eth0.$vlan up
	done
	ip address add 10.96.0.3/24 dev eth0.10
	ip address add 10.96.0.4/32 dev eth0.20
	ip route add 10.96.0.2 dev eth0.20
	echo "THIRD-UP"
	read -r _ </dev/console
	echo "TO-FIRST $(pings -W 60 10.96.0.1)"
	echo "TO-SECOND $(pings -W 60 -I eth0.20 10.96.0.2)"
	echo "THIRD-DONE"
	read -r _ </dev/console
	;;
esac
