# What both scripts begin with. The first thing that is not as it should be ends them, and says where.
set -e
fails() {
	echo "FAILED: $BASH_COMMAND"
	systemctl --no-pager status ostler.service
	journalctl --no-pager --lines 40 --output cat
}
trap 'status=$?; if [ $status != 0 ]; then fails; fi; exit $status' EXIT
export LC_ALL=C

# until_so COMMAND...: waits for minutes until it succeeds.
until_so() {
	local tries
	for tries in $(seq 1200); do
		if "$@" >/dev/null 2>&1; then return 0; fi
		sleep 0.2
	done
	echo "waited for long, but it fails: $*"
	return 1
}

# states: whether the service and its sockets are there.
states() { systemctl is-active ostler.service ostler.socket ostler-ro.socket || true; }

# main: the daemon's process.
main() { systemctl show --property MainPID --value ostler.service; }

# guest: the process of the guest.
guest() {
	local process
	for process in /proc/[0-9]*; do
		[ "$(tr '\0' ' ' <"$process/cmdline")" != "ostler vmm -- inn " ] || echo "${process#/proc/}"
	done 2>/dev/null
}

is_running() { [ "$(virsh domstate inn)" = running ]; }
is_new_and_active() { [ "$(main)" != "$1" ] && [ "$(main)" != 0 ] && systemctl is-active ostler.service; }
