//! What tests of several Linux guests on one network share.

use super::guest_folder;

/// Megabytes that go from guest to guest: `by_day`, and a gigabyte at night.
pub fn megabytes(by_day: u32) -> u32 {
    if std::env::var_os("OSTLER_NIGHTLY").is_some() {
        1024
    } else {
        by_day
    }
}

/// A mebibyte in which no two words are alike.
pub fn block() -> Vec<u8> {
    (0..1u32 << 20)
        .map(|i| (i.wrapping_mul(0x9e37_79b1) >> 13) as u8)
        .collect()
}

/// The module of VLAN interfaces with what it needs, in the order in which they are loaded.
pub fn vlan_modules() -> Option<Vec<(String, Vec<u8>)>> {
    let modules = guest_folder().join("root/lib/modules");
    let kernel = std::fs::read_dir(modules).ok()?.flatten().next()?.path();
    let of = |path: &str| {
        let name = path.rsplit('/').next()?;
        let bytes = std::fs::read(kernel.join("kernel/net").join(path)).ok()?;
        Some((name.to_owned(), bytes))
    };
    [
        "llc/llc.ko",
        "802/stp.ko",
        "802/garp.ko",
        "802/mrp.ko",
        "8021q/8021q.ko",
    ]
    .into_iter()
    .map(of)
    .collect()
}

/// Gets an address by DHCP for a guest of this name, as Debian's own scripts would set it.
pub fn dhcp(name: &str) -> String {
    format!(
        "dmesg -n 5; ip link set lo up; ip link set eth0 up\n\
         cat >/lease <<'EOF'\n\
         #!/bin/sh\n\
         [ \"$1\" = bound ] || exit 0\n\
         ip address add $ip/$mask dev $interface\n\
         [ -z \"$router\" ] || ip route add default via $router\n\
         [ -z \"$domain\" ] || echo \"search $domain\" >/etc/resolv.conf\n\
         for server in $dns; do echo nameserver $server >>/etc/resolv.conf; done\n\
         EOF\n\
         chmod +x /lease; mkdir -p /etc\n\
         udhcpc -i eth0 -s /lease -q -n -t 20 -x hostname:{name} >/dev/null || echo no lease\n\
         echo BEGIN address; ip -4 -o address show dev eth0; ip route; cat /etc/resolv.conf; echo END address\n\
         echo network up\n"
    )
}

/// Debian's dhclient with the libraries that it needs, as files of a guest; `None` where it is not unpacked.
pub fn dhclient() -> Option<Vec<(&'static str, Vec<u8>)>> {
    let unpacked = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/dhclient/root");
    let files = [
        ("sbin/dhclient", unpacked.join("sbin/dhclient")),
        ("lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2".into()),
        (
            "lib/x86_64-linux-gnu/libc.so.6",
            "/lib/x86_64-linux-gnu/libc.so.6".into(),
        ),
    ];
    let read = |(name, path): (_, std::path::PathBuf)| Some((name, std::fs::read(path).ok()?));
    files.into_iter().map(read).collect()
}
