#!/bin/sh
# Runs in the host, asked by the guest: what is counted so far, and the threads of vhost-net.
{
	echo "TOP $(ostler top --json /run/control | tr -d '\n')"
	ps | grep '[v]host-' | sed 's/^ */THREAD /'
} >>/tmp/looks 2>&1
echo yes
