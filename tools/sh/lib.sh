# Shared by ./quickstart, ./test and ./bench: says what it does, installs what is missing, fetches the guest.
# shellcheck shell=bash

GUEST=target/guest
RUST_NEEDED=1.95

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

# The Debian packages among "command:package" pairs whose command is missing. A command may be a path.
missing_packages() {
	local pair
	for pair in "$@"; do
		command -v "${pair%%:*}" >/dev/null 2>&1 || [ -e "${pair%%:*}" ] || printf '%s\n' "${pair#*:}"
	done | sort -u
}

# install_packages WHY PACKAGE...: installs as root, or prints the line that an administrator has to run.
install_packages() {
	local why=$1 plan
	shift
	[ $# -gt 0 ] || return 0
	say "Debian packages to install $why: $*"
	if [ "$(id -u)" != 0 ]; then
		die "not root; run this once and call me again:
    sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
	fi
	apt-get update -qq || die "apt-get update failed; is there a network?"
	# With --assume-no apt-get says the sizes and ends with status 1.
	plan=$(LC_ALL=C apt-get install --no-install-recommends --assume-no "$@" 2>/dev/null || true)
	printf '%s\n' "$plan" | sed -n '/^Need to get\|^After this operation/s/^/    /p'
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
		die "apt-get install $* failed"
}

# Everything that a build needs: a C compiler as the linker, and Rust.
need_toolchain() {
	local packages
	packages=$(missing_packages cc:gcc /usr/include/stdio.h:libc6-dev /etc/ssl/certs/ca-certificates.crt:ca-certificates)
	rust_is_new_enough || packages="$packages rustc-web cargo-web $*"
	# shellcheck disable=SC2086
	install_packages "for the build" $packages
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

# make_disk FILE: an empty ext4 file system of 64 MiB.
make_disk() {
	rm -f "$1"
	truncate -s 64M "$1"
	PATH=$PATH:/sbin:/usr/sbin mke2fs -q -F -t ext4 "$1" || die "cannot make a file system in $1"
}
