//! What the host offers to disks, networks and memory of guests.

use std::fs::File;
use std::io;

use ostler_disk::{Engine, OpenQueue, RawDisk};
use rustix::fs::MemfdFlags;

use super::finding::{Finding, Remedy, Verdict};
use super::host::Host;

/// A character device that guests use if it can be opened; `without` is what its lack means.
fn character_device(host: &Host, name: &'static str, path: &str, without: &str, module: &str) -> Finding {
    match File::options().read(true).write(true).open(host.path(path)) {
        Ok(_) => Finding::good(name, format!("{path} opens")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::bad(
            name,
            format!("you may not open {path}: {without}"),
            Remedy::with_note(
                format!("sudo chgrp kvm {path}; sudo chmod 660 {path}; sudo usermod -aG kvm $USER"),
                "then log in again",
            ),
        ),
        Err(error) => {
            let missing = error.kind() == io::ErrorKind::NotFound;
            let why = if missing {
                format!("there is no {path}")
            } else {
                format!("{path} does not open ({error})")
            };
            let finding = Finding::fair(name, format!("{why}: {without}"));
            if host.could_have_module(module) {
                finding.or_better_by(format!("sudo modprobe {module}"))
            } else {
                finding
            }
        }
    }
}

/// Taps.
pub fn taps(host: &Host) -> Finding {
    character_device(
        host,
        "taps",
        "/dev/net/tun",
        "guests get no --net tap=NAME",
        "tun",
    )
}

/// vhost-net.
pub fn vhost_net(host: &Host) -> Finding {
    let without = "each guest's own process moves its frames";
    let mut finding = character_device(host, "vhost-net", "/dev/vhost-net", without, "vhost_net");
    if finding.verdict == Verdict::Good {
        finding.says += ": the kernel moves the frames of guests on KVM; on the software CPU the guest's own process does";
    }
    finding
}

/// io_uring; `attempt` is what came of using it.
pub fn io_uring(host: &Host, attempt: Result<(), String>) -> Finding {
    const NAME: &str = "io-uring";
    match attempt {
        Ok(()) => Finding::good(NAME, "io_uring works: guests' disks use it"),
        Err(error) => {
            let finding = Finding::fair(
                NAME,
                format!("io_uring is refused ({error}): guests' disks use threads"),
            );
            match host.number("/proc/sys/kernel/io_uring_disabled") {
                Some(1..) => finding.or_better_by("sudo sysctl kernel.io_uring_disabled=0"),
                _ => finding,
            }
        }
    }
}

/// Uses io_uring for real, on a file in memory.
pub fn try_io_uring() -> Result<(), String> {
    let memory = rustix::fs::memfd_create("doctor", MemfdFlags::CLOEXEC).map_err(|e| e.to_string())?;
    let file = File::from(memory);
    file.set_len(4096).map_err(|e| e.to_string())?;
    let disk = RawDisk::with_engine(file, Engine::Uring).map_err(|e| e.to_string())?;
    disk.open_queue(1).map(drop).map_err(|e| e.to_string())
}

/// userfaultfd, which moving a guest with its memory behind it needs, for root or an ordinary user.
pub fn userfaultfd(host: &Host, is_root: bool) -> Finding {
    const NAME: &str = "userfaultfd";
    if File::options()
        .read(true)
        .write(true)
        .open(host.path("/dev/userfaultfd"))
        .is_ok()
    {
        return Finding::good(NAME, "/dev/userfaultfd opens");
    }
    match host.number("/proc/sys/vm/unprivileged_userfaultfd") {
        Some(1..) => Finding::good(NAME, "userfaultfd is open to every user"),
        Some(_) if is_root => Finding::good(NAME, "userfaultfd is open to root"),
        Some(_) => Finding::bad(
            NAME,
            "userfaultfd is closed to you",
            Remedy::command("sudo sysctl vm.unprivileged_userfaultfd=1"),
        ),
        None => Finding::fair(NAME, "this kernel has no userfaultfd"),
    }
}

/// Huge pages.
pub fn huge_pages(host: &Host) -> Finding {
    const NAME: &str = "huge-pages";
    let chosen = host
        .text("/sys/kernel/mm/transparent_hugepage/enabled")
        .unwrap_or_default();
    let chosen = chosen
        .split_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    let reserved = host
        .text("/proc/meminfo")
        .and_then(|text| {
            text.lines()
                .find_map(|l| l.strip_prefix("HugePages_Total:")?.trim().parse::<u64>().ok())
        })
        .unwrap_or(0);
    match chosen {
        Some(mode @ ("always" | "madvise")) => Finding::good(
            NAME,
            format!("transparent huge pages are on ({mode}), {reserved} pages are reserved"),
        ),
        Some(_) => Finding::bad(
            NAME,
            format!(
                "transparent huge pages are off, {reserved} pages are reserved: guests' memory is slower"
            ),
            Remedy::command("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"),
        ),
        None => Finding::fair(
            NAME,
            format!("this kernel has no transparent huge pages, {reserved} are reserved"),
        ),
    }
}

/// User namespaces, in which a guest's process can be jailed without privilege.
pub fn user_namespaces(host: &Host) -> Finding {
    const NAME: &str = "user-namespaces";
    let closed = host.number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0);
    match host.number("/proc/sys/user/max_user_namespaces") {
        None => Finding::fair(NAME, "this kernel has no user namespaces"),
        Some(0) => Finding::bad(
            NAME,
            "user namespaces are switched off",
            Remedy::command("sudo sysctl user.max_user_namespaces=10000"),
        ),
        Some(_) if closed => Finding::bad(
            NAME,
            "user namespaces are closed to ordinary users",
            Remedy::command("sudo sysctl kernel.unprivileged_userns_clone=1"),
        ),
        Some(_) => Finding::good(NAME, "user namespaces are open to ordinary users"),
    }
}

/// The kernel's bridge, and whether it filters VLANs.
pub fn bridge(host: &Host) -> Finding {
    const NAME: &str = "kernel-bridge";
    let loaded = host.has_module("bridge");
    if !loaded && !host.could_have_module("bridge") {
        return Finding::fair(
            NAME,
            "no bridge module is loaded, and none is in the kernel's module folder",
        );
    }
    let filtering = match vlan_filtering(host) {
        Some(true) => "with VLAN filtering",
        Some(false) => "without VLAN filtering",
        None => "whether it filters VLANs shows only on a bridge",
    };
    if loaded {
        return Finding::good(NAME, format!("the kernel's bridge is there, {filtering}"));
    }
    Finding::fair(NAME, format!("the kernel's bridge is not loaded, {filtering}"))
        .or_better_by("sudo modprobe bridge")
}

/// From a bridge that exists, else from the kernel's configuration.
fn vlan_filtering(host: &Host) -> Option<bool> {
    let interfaces = std::fs::read_dir(host.path("/sys/class/net"))
        .into_iter()
        .flatten()
        .flatten();
    for interface in interfaces {
        let bridge = interface.path().join("bridge");
        if bridge.exists() {
            return Some(bridge.join("vlan_filtering").exists());
        }
    }
    let release = host.text("/proc/sys/kernel/osrelease")?;
    let config = host.text(&format!("/boot/config-{}", release.trim()))?;
    Some(
        config
            .lines()
            .any(|line| line == "CONFIG_BRIDGE_VLAN_FILTERING=y"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn host(files: &[(&str, &str)]) -> (Host, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        (Host::in_folder(dir.path()), dir)
    }

    fn command(finding: &Finding) -> Option<&str> {
        Some(&finding.remedy.as_ref()?.command)
    }

    #[test]
    fn io_uring_that_works_is_good_and_one_that_is_switched_off_has_its_command() {
        let (off, _dir) = host(&[("proc/sys/kernel/io_uring_disabled", "2\n")]);
        assert_eq!(io_uring(&off, Ok(())).verdict, Verdict::Good);
        let refused = || Err("Operation not permitted".into());
        let finding = io_uring(&off, refused());
        assert_eq!(finding.verdict, Verdict::Fair);
        assert!(finding.says.contains("not permitted") && finding.says.contains("threads"));
        assert_eq!(command(&finding), Some("sudo sysctl kernel.io_uring_disabled=0"));
        // Refused by something else (a seccomp filter): no command of ours changes that.
        for setting in ["0\n", "nonsense"] {
            let (other, _dir) = host(&[("proc/sys/kernel/io_uring_disabled", setting)]);
            assert_eq!(command(&io_uring(&other, refused())), None);
        }
    }

    #[test]
    fn userfaultfd_is_open_by_its_device_its_switch_or_to_root() {
        let switch = "proc/sys/vm/unprivileged_userfaultfd";
        let (closed, _dir) = host(&[(switch, "0\n")]);
        let finding = userfaultfd(&closed, false);
        assert_eq!(finding.verdict, Verdict::Bad);
        assert_eq!(
            command(&finding),
            Some("sudo sysctl vm.unprivileged_userfaultfd=1")
        );
        assert_eq!(userfaultfd(&closed, true).verdict, Verdict::Good);
        let (open, _dir) = host(&[(switch, "1\n")]);
        assert_eq!(userfaultfd(&open, false).verdict, Verdict::Good);
        let (device, _dir) = host(&[(switch, "0\n"), ("dev/userfaultfd", "")]);
        assert_eq!(userfaultfd(&device, false).verdict, Verdict::Good);
        let (none, _dir) = host(&[]);
        assert_eq!(userfaultfd(&none, true).verdict, Verdict::Fair);
    }

    #[test]
    fn an_empty_host_has_nothing_and_breaks_nothing() {
        let (host, _dir) = host(&[]);
        for finding in [
            taps(&host),
            vhost_net(&host),
            user_namespaces(&host),
            huge_pages(&host),
            bridge(&host),
        ] {
            assert_eq!(finding.verdict, Verdict::Fair, "{finding:?}");
        }
    }

    #[test]
    fn vhost_net_is_for_guests_on_kvm() {
        let (there, _dir) = host(&[("dev/vhost-net", "")]);
        let finding = vhost_net(&there);
        assert_eq!(finding.verdict, Verdict::Good);
        assert!(
            finding
                .says
                .contains("on the software CPU the guest's own process")
        );
    }

    #[test]
    fn what_is_switched_off_can_be_switched_on() {
        let (host, _dir) = host(&[
            (
                "sys/kernel/mm/transparent_hugepage/enabled",
                "always madvise [never]\n",
            ),
            ("proc/sys/user/max_user_namespaces", "0\n"),
        ]);
        for finding in [huge_pages(&host), user_namespaces(&host)] {
            assert_eq!(finding.verdict, Verdict::Bad);
            assert!(finding.remedy.is_some());
        }
    }

    #[test]
    fn a_module_that_could_be_loaded_is_the_remedy() {
        let (host, _dir) = host(&[
            ("proc/sys/kernel/osrelease", "6.1.0\n"),
            (
                "lib/modules/6.1.0/modules.dep",
                "kernel/drivers/vhost/vhost_net.ko: kernel/net/bridge/bridge.ko:\n",
            ),
            ("boot/config-6.1.0", "CONFIG_BRIDGE_VLAN_FILTERING=y\n"),
        ]);
        assert_eq!(command(&vhost_net(&host)), Some("sudo modprobe vhost_net"));
        let bridge = bridge(&host);
        assert_eq!(command(&bridge), Some("sudo modprobe bridge"));
        assert!(bridge.says.contains("with VLAN filtering"));
    }
}
