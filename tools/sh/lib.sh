# Shared by ./quickstart, ./test and ./bench: says what it does, installs what is missing, fetches the guests.
# shellcheck shell=bash

GUEST=target/guest
# The guest with a system disk.
SYSTEM=$GUEST/debian
RUST_NEEDED=1.95
# The guest with the drivers of a PC.
PC=$GUEST/pc
# Open vSwitch, a peer of tests.
OVS=target/open-vswitch
# Debian's sshd and nc, peers of tests.
SSH=target/openssh
# A DHCPv6 client in tests.
DHCLIENT=target/dhclient
LIBVIRTD=target/libvirtd
# A client in tests.
VIRT_INSTALL=target/virt-install
# More of them.
CLIENTS=target/libvirt-clients
# Debian's signed boot loaders.
SIGNED_BOOT=target/signed-boot
# What it loads beside the standard modules.
PC_MODULES="e1000e ahci sd_mod sr_mod isofs crc32c_generic ext4"
# Seconds that the guest of a check may take.
CHECK_LIMIT=180

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# version_at_least HAVE WANTED
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

rust_is_new_enough() {
	local version
	version=$(rustc --version 2>/dev/null | awk '{print $2}')
	[ -n "$version" ] && command -v cargo >/dev/null && version_at_least "$version" "$RUST_NEEDED"
}

# The toolchain is one that rustup keeps: Debian's packages would not add to it.
rust_comes_from_rustup() {
	case $(rustc --print sysroot 2>/dev/null) in
	*/toolchains/*) ;;
	*) return 1 ;;
	esac
}

# is_there NAME: a command, a path, "rust" that is new enough, or a subcommand of cargo. Those are called, because rustup has a
# command for each of them, installed or not.
is_there() {
	case $1 in
	rust) rust_is_new_enough ;;
	cargo-*) cargo "${1#cargo-}" --version >/dev/null 2>&1 ;;
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null 2>&1 ;;
	esac
}

# The Debian packages among "name:package,package" pairs whose name is not there, one a line.
missing_packages() {
	local pair
	for pair in "$@"; do
		is_there "${pair%%:*}" || printf '%s\n' "${pair#*:}"
	done | tr , '\n' | sort -u
}

# The line of rustup that gives what the Debian packages named here would give.
rustup_remedy() {
	local components
	components=$(printf '%s\n' "$@" | sed -n 's/^rustfmt-web$/rustfmt/p; s/^rust-web-clippy$/clippy/p' | tr '\n' ' ')
	if ! rust_is_new_enough; then
		echo "rustup default stable && rustup update stable && rustup component add rustfmt clippy"
	elif [ -n "$components" ]; then
		echo "rustup component add ${components% }"
	fi
}

# The packages named here that have nothing to do with Rust.
not_of_rustup() { printf '%s\n' "$@" | sed -E '/^(rustc-web|cargo-web|rustfmt-web|rust-web-clippy)$/d'; }

# The sizes of packages, as apt-get says them; nothing where it has no lists yet. With --assume-no it ends with status 1.
say_sizes() {
	LC_ALL=C apt-get install -o Debug::NoLocking=true --no-install-recommends --assume-no "$@" 2>/dev/null |
		sed -n '/^Need to get\|^After this operation/s/^/    /p; /will be REMOVED:$/,/^[^ ]/{/^ /s/^ */    To be removed: /p}' || true
}

# install_packages WHY PACKAGE...: installs as root, or prints the line that an administrator has to run.
install_packages() {
	local why=$1
	shift
	[ $# -gt 0 ] || return 0
	say "Debian packages to install $why: $*"
	if [ "$(id -u)" != 0 ]; then
		say_sizes "$@"
		die "not root; run this once and call me again:
    sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
	fi
	apt-get update -qq || die "apt-get update failed; is there a network?"
	say_sizes "$@"
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
		die "apt-get install $* failed"
}

# need NAME:PACKAGE...: looks for all of it before anything is installed, so that an ordinary user reads everything that is missing
# at once.
need() {
	local packages remedy=''
	packages=$(missing_packages "$@")
	# shellcheck disable=SC2086
	if [ -n "$packages" ] && rust_comes_from_rustup; then
		remedy=$(rustup_remedy $packages)
		packages=$(not_of_rustup $packages)
	fi
	if [ -n "$remedy" ]; then
		say "Rust comes from rustup here and lacks something; run this once: $remedy"
		[ -n "$packages" ] || die "Rust lacks something; run the line above and call me again"
	fi
	# shellcheck disable=SC2086
	install_packages "for $(basename "$0")" $packages
	[ -z "$remedy" ] || die "Rust lacks something; run the line above and call me again"
	# A package of another release (qemu-utils of the backports) may have made room for one of these.
	# shellcheck disable=SC2046
	install_packages "in place of what just went" $(not_of_rustup $(missing_packages "$@"))
}

# need_toolchain [NAME:PACKAGE...]: everything that a build needs (a C compiler as the linker, and Rust), and more.
need_toolchain() {
	need cc:gcc /usr/include/stdio.h:libc6-dev /etc/ssl/certs/ca-certificates.crt:ca-certificates \
		rust:rustc-web,cargo-web "$@"
	rust_is_new_enough ||
		die "Rust $RUST_NEEDED or newer is needed, and $(rustc --version 2>/dev/null || echo none) is there"
}

# Fetches Debian's cloud kernel and busybox, unpacks them under target/guest, and makes the initramfs there.
need_guest() {
	if [ ! -e "$GUEST/complete" ]; then
		fetch_guest
	fi
	if [ ! -e "$GUEST/initrd.img" ] || [ -n "$(find tools/guest-image -newer "$GUEST/initrd.img" -type f)" ]; then
		say "Making the guest's initramfs"
		cargo run --quiet --release -p ostler-guest-image -- --root "$GUEST/root" --output "$GUEST/initrd.img" ||
			die "the initramfs could not be made"
	fi
	if [ ! -e "$GUEST/disk.img" ]; then
		make_disk "$GUEST/disk.img"
	fi
}

# Debian's ordinary kernel, for the tests of devices that the cloud kernel has no drivers for; after need_guest.
need_pc_guest() {
	local module modules=()
	[ -e "$PC/complete" ] || fetch_pc_guest
	if [ ! -e "$PC/initrd.img" ] || [ -n "$(find tools/guest-image tools/sh -newer "$PC/initrd.img" -type f)" ]; then
		say "Making the initramfs of the guest with a PC's drivers"
		for module in $PC_MODULES; do
			modules+=(--module "$module")
		done
		cargo run --quiet --release -p ostler-guest-image -- --root "$PC/root" --output "$PC/initrd.img" \
			"${modules[@]}" || die "the initramfs could not be made"
	fi
}

# The program that runs in guests of ./bench. In a folder of its own: linked statically, as there is no libc in the guest.
need_guest_program() {
	cargo rustc --release --quiet -p ostler-guest-bench --target-dir target/guest-programs -- -C target-feature=+crt-static ||
		die "the guest's program could not be built"
}

fetch_pc_guest() {
	local kernel package
	rm -rf "$PC"
	mkdir -p "$PC/packages" "$PC/root/bin"
	kernel=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-[0-9]/ {print $2; exit}')
	[ -n "$kernel" ] || die "apt knows no linux-image-amd64; is this Debian for amd64?"
	say "Fetching Debian's ordinary kernel for some tests, unpacked under $PC and not installed:"
	apt-cache show --no-all-versions "$kernel" |
		awk '/^Package:/ {p=$2} /^Size:/ {printf "    %s, %.1f MB\n", p, $2/1e6}'
	(cd "$PC/packages" && apt-get download -qq "$kernel" 2>/dev/null) ||
		die "apt-get download $kernel failed; is there a network?"
	package=$(echo "$PC"/packages/*.deb)
	# Without what is largest and never loaded.
	dpkg-deb --fsys-tarfile "$package" |
		tar --extract --directory "$PC/root" --exclude='*/drivers/gpu' --exclude='*/drivers/media' --exclude='*/kernel/sound' \
			--exclude='*/drivers/infiniband' --exclude='*/net/wireless' --exclude='*/drivers/staging' ./boot ./lib/modules ||
		die "cannot unpack $package"
	cp "$GUEST/root/bin/busybox" "$PC/root/bin/busybox"
	ln -sf "root/boot/$(basename "$PC"/root/boot/vmlinuz-*)" "$PC/vmlinuz"
	touch "$PC/complete"
}

fetch_guest() {
	local kernel
	rm -rf "$GUEST"
	mkdir -p "$GUEST/packages"
	kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-[0-9]/ {print $2; exit}')
	if [ -z "$kernel" ]; then
		[ "$(id -u)" = 0 ] || die "apt knows no packages yet; run this once and call me again:
    sudo apt-get update"
		say "Fetching Debian's package lists"
		apt-get update -qq || die "apt-get update failed; is there a network?"
		kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-[0-9]/ {print $2; exit}')
	fi
	[ -n "$kernel" ] || die "apt knows no linux-image-cloud-amd64; is this Debian for amd64?"
	say "Fetching the guest from Debian, unpacked under $GUEST and not installed:"
	apt-cache show --no-all-versions "$kernel" busybox-static |
		awk '/^Package:/ {p=$2} /^Size:/ {printf "    %s, %.1f MB\n", p, $2/1e6}'
	(cd "$GUEST/packages" && apt-get download -qq "$kernel" busybox-static 2>/dev/null) ||
		die "apt-get download $kernel busybox-static failed; is there a network?"
	for package in "$GUEST"/packages/*.deb; do
		dpkg-deb --extract "$package" "$GUEST/root" || die "cannot unpack $package"
	done
	ln -sf "root/boot/$(basename "$GUEST"/root/boot/vmlinuz-*)" "$GUEST/vmlinuz"
	touch "$GUEST/complete"
}

# need_unpacked FOLDER WHAT PACKAGE...: unpacks packages for tests without installing them.
need_unpacked() {
	local folder=$1 what=$2 package
	shift 2
	[ "$(cat "$folder/complete" 2>/dev/null)" != "$*" ] || return 0
	rm -rf "$folder"
	mkdir -p "$folder/packages"
	say "Fetching $what from Debian for some tests, unpacked under $folder and not installed:"
	apt-cache show --no-all-versions "$@" |
		awk '/^Size:/ {sum+=$2; count++} END {printf "    %d packages, %.1f MB\n", count, sum/1e6}'
	(cd "$folder/packages" && apt-get download -qq "$@" 2>/dev/null) ||
		die "apt-get download of $what failed; is there a network?"
	for package in "$folder"/packages/*.deb; do
		dpkg-deb --extract "$package" "$folder/root" || die "cannot unpack $package"
	done
	rm -rf "$folder/packages"
	printf '%s' "$*" >"$folder/complete"
}

# Its package starts services.
need_open_vswitch() {
	need_unpacked "$OVS" "Open vSwitch" openvswitch-common openvswitch-switch libunbound8 libxdp1 libbpf1 libnuma1 libcap-ng0 \
		libevent-2.1-7 libelf1 libhogweed6 libnettle8 libssl3
}

# sshd, whose package starts a service, and the nc that libvirt's clients call over ssh.
need_ssh() {
	need_unpacked "$SSH" "sshd and nc" openssh-server openssh-sftp-server libwrap0 netcat-openbsd libbsd0
}

# Its packages start services, and take the sockets of ours.
need_libvirtd() {
	# shellcheck disable=SC2046
	install_packages "for libvirtd" $(missing_packages /usr/lib/x86_64-linux-gnu/libvirt.so.0:libvirt0 qemu-system-x86_64:qemu-system-x86 openssl:openssl)
	need_unpacked "$LIBVIRTD" libvirtd libvirt-daemon libvirt-daemon-driver-qemu libdevmapper1.02.1 libparted2 libpcap0.8 libpciaccess0
}

# Its package would take over the machine's own networking.
need_dhclient() {
	need_unpacked "$DHCLIENT" dhclient isc-dhcp-client
}

# Its packages bring systemd and D-Bus where they are not.
need_virt_install() {
	need_unpacked "$VIRT_INSTALL" virt-install virtinst python3-gi python3-libvirt python3-libxml2 python3-requests python3-certifi \
		python3-chardet python3-charset-normalizer python3-idna python3-urllib3 gir1.2-freedesktop gir1.2-glib-2.0 \
		gir1.2-libosinfo-1.0 libgirepository-1.0-1 libosinfo-1.0-0 osinfo-db libsoup-3.0-0 libxslt1.1 libbrotli1 libnghttp2-14 libpsl5 \
		libsqlite3-0 libglib2.0-0 libffi8 libxml2 libicu72
}

# Some start services, and libvirt-dbus wants libvirt's own daemon.
need_libvirt_clients() {
	need_unpacked "$CLIENTS" "clients of libvirt" libvirt-dbus libvirt-glib-1.0-0 dbus-daemon libdbus-1-3 libapparmor1 libexpat1 libcap-ng0 \
		libglib2.0-0 prometheus-libvirt-exporter collectd-core libsys-virt-perl
}

# Its packages would install a boot loader on a machine with UEFI.
need_signed_boot() {
	need_unpacked "$SIGNED_BOOT" "signed boot loaders" shim-signed grub-efi-amd64-signed
}

# make_disk FILE: an empty ext4 file system of 64 MiB.
make_disk() {
	rm -f "$1"
	truncate -s 64M "$1"
	PATH=$PATH:/sbin:/usr/sbin mke2fs -q -F -t ext4 "$1" || die "cannot make a file system in $1"
}

# Makes the guest's system disk, and again where its recipe has changed. An ordinary user does without: it takes root to unpack
# packages with their owners.
need_system_disk() {
	local recipe
	recipe=$(cat tools/guest-disk/* | sha256sum)
	[ "$(cat "$SYSTEM/recipe" 2>/dev/null)" != "$recipe" ] || return 0
	if [ "$(id -u)" != 0 ]; then
		say "Not root: the tests of a guest with a system disk are skipped"
		return 0
	fi
	say "Making a Debian 12 system disk from Debian's packages: 150 MB to fetch, 600 MB on the disk, a minute or two"
	rm -f "$SYSTEM/recipe"
	tools/guest-disk/make "$SYSTEM" || die "the system disk could not be made; is there a network?"
	printf '%s\n' "$recipe" >"$SYSTEM/recipe"
}

# seconds_since NANOSECONDS: the time since then, with one digit after the point.
seconds_since() {
	local tenths=$((($(date +%s%N) - $1) / 100000000))
	printf '%d.%d\n' $((tenths / 10)) $((tenths % 10))
}

# watch_guest NANOSECONDS: passes a guest's output on, and says how long after that time its line came.
watch_guest() {
	local line
	while IFS= read -r line || [ -n "$line" ]; do
		printf '%s\n' "$line"
		case $line in
		OSTLER-GUEST-UP*) say "The guest's line came $(seconds_since "$1") seconds after the start" ;;
		esac
	done
}

# serve_token FOLDER: has the guest's own busybox serve FOLDER/token, a word that nobody knows, over HTTP on this host's loopback. Sets
# TOKEN, TOKEN_PORT and TOKEN_SERVER, the process; whoever calls ends it.
serve_token() {
	local try
	rm -rf "$1"
	mkdir -p "$1"
	TOKEN=$(head -c 16 /dev/urandom | sha256sum | head -c 32)
	echo "$TOKEN" >"$1/token"
	# No port can be asked for, so some are tried.
	for try in 1 2 3 4 5 6 7 8 9 10; do
		TOKEN_PORT=$((20000 + RANDOM % 12000))
		"$GUEST/root/bin/busybox" httpd -f -p "127.0.0.1:$TOKEN_PORT" -h "$1" 2>/dev/null &
		TOKEN_SERVER=$!
		while kill -0 "$TOKEN_SERVER" 2>/dev/null; do
			! served_token "$TOKEN_PORT" || return 0
			sleep 0.1
		done
	done
	die "no port of this host's loopback could be had for a server ($try were tried)"
}

# served_token PORT: true if a server at this port of the loopback gives the token.
served_token() {
	local line=
	{ exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
	printf 'GET /token HTTP/1.0\r\n\r\n' >&3
	while IFS= read -r line <&3; do
		[ "$line" != "$TOKEN" ] || break
	done
	exec 3>&-
	[ "$line" = "$TOKEN" ]
}

# check_guest STATUS LOG TOKEN: the guest of a check came up with its disk, fetched TOKEN over its network and powered off by itself. A
# panic or a time-out has a status; a reset has not, but the kernel says by its last line which of the two it does.
check_guest() {
	case $1 in
	0) ;;
	124 | 137) die "the guest was not through after $CHECK_LIMIT seconds; its output is in $2" ;;
	*) die "ostler ended with status $1; the guest's output is in $2" ;;
	esac
	grep -aq '^OSTLER-GUEST-UP.* disk ok' "$2" || die "the guest did not come up; its output is in $2"
	grep -aqE "^OSTLER-GUEST-NETWORK address [0-9./]+ fetched $3.?\$" "$2" ||
		die "the guest did not reach this host over its network; its output is in $2"
	grep -aq 'reboot: Power down' "$2" || die "the guest did not power off; its output is in $2"
}
