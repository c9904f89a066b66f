//! `ostler doctor`: what this host can do for guests, in plain words.

mod bridge_traps;
mod devices;
mod finding;
mod host;
mod networks;
mod selftest;
mod virtualization;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use ostler_accel::{Accelerator, model};
use ostler_softcpu::vm::SoftCpu;
use serde_json::json;

use crate::accelerator::{DEV_KVM, KvmDevice};
use crate::failure::Failure;
use finding::{Finding, Verdict};
use host::Host;

/// Options of `ostler doctor`.
#[derive(Args)]
pub struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Run the built-in guests on each accelerator.
    #[arg(long, conflicts_with = "json")]
    selftest: bool,
}

/// Examines the host.
pub fn run(args: DoctorArgs) -> Result<ExitCode, Failure> {
    if args.selftest {
        return selftest::run();
    }
    let host = Host::this();
    let (device, _) = KvmDevice::look(Path::new(DEV_KVM));
    let findings = examine(&host, &device);
    let text = if args.json {
        as_json(&findings, &device)
    } else {
        as_text(&findings, &device)
    };
    // A reader that went away has seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn examine(host: &Host, device: &KvmDevice) -> Vec<Finding> {
    vec![
        virtualization::flags(host),
        virtualization::modules(host),
        virtualization::device(host, device),
        devices::taps(host),
        devices::vhost_net(host),
        devices::io_uring(host, devices::try_io_uring()),
        devices::userfaultfd(host, rustix::process::geteuid().is_root()),
        devices::huge_pages(host),
        devices::user_namespaces(host),
        devices::bridge(host),
        bridge_traps::netfilter(host),
        bridge_traps::bpdus(host),
        networks::nft(host),
        networks::forwarding(host),
    ]
}

/// What `--accel auto` takes.
fn automatic(device: &KvmDevice) -> &'static str {
    if device.is_fast() { "kvm" } else { "soft" }
}

/// The CPU models that the accelerator which `auto` takes can keep here.
fn models(device: &KvmDevice) -> Vec<&'static str> {
    let accelerator: Box<dyn Accelerator> = match ostler_kvm::Kvm::open() {
        Ok(kvm) if device.is_fast() => Box::new(kvm),
        _ => Box::new(SoftCpu::default()),
    };
    let Ok(supported) = accelerator.supported_cpuid() else {
        return Vec::new();
    };
    let fits = |name: &&str| model::build(name, &supported, model::Topology { cpus: 1 }, 0).is_ok();
    model::names().into_iter().filter(fits).collect()
}

fn as_json(findings: &[Finding], device: &KvmDevice) -> String {
    let speed = match device {
        KvmDevice::Works(speed) => Some(speed.0),
        _ => None,
    };
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "findings": findings,
        "kvm-mips": speed,
        "auto": { "accelerator": automatic(device), "reason": device.reason() },
        "cpu-models": models(device),
    });
    format!("{value:#}\n")
}

fn as_text(findings: &[Finding], device: &KvmDevice) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.verdict {
            Verdict::Good => "good",
            Verdict::Fair => "-",
            Verdict::Bad => "BAD",
        };
        text += &format!("{mark:>5}  {:<16} {}\n", finding.name, finding.says);
        if let Some(remedy) = &finding.remedy {
            let note = remedy.note.map(|note| format!(" ({note})")).unwrap_or_default();
            text += &format!("{:>24}to mend it: {}{note}\n", "", remedy.command);
        }
    }
    let name = if device.is_fast() {
        "KVM"
    } else {
        "the software CPU"
    };
    text += &format!("\n--accel auto takes {name}: {}\n", device.reason());
    text += &format!("CPU models for --cpu: {}\n", models(device).join(", "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_accel::probe::Mips;
    use std::fs;

    /// What a command line may begin with.
    const COMMANDS: &[&str] = &["sudo", "echo"];

    /// Hosts in all kinds of trouble.
    const HOSTS: &[&[(&str, &str)]] = &[
        &[],
        &[("proc/cpuinfo", "vendor_id : AuthenticAMD\nflags : hypervisor\n")],
        &[("proc/cpuinfo", "vendor_id : GenuineIntel\nflags : vmx\n")],
        &[
            ("proc/cpuinfo", "vendor_id : AuthenticAMD\nflags : svm\n"),
            ("sys/module/kvm_amd/x", ""),
            ("proc/sys/kernel/osrelease", "6.1.0\n"),
            (
                "lib/modules/6.1.0/modules.dep",
                "k/tun.ko:\nk/vhost_net.ko:\nk/bridge.ko:\n",
            ),
            ("proc/sys/kernel/io_uring_disabled", "2\n"),
            ("proc/sys/kernel/unprivileged_userns_clone", "0\n"),
            ("proc/sys/user/max_user_namespaces", "100\n"),
            ("proc/sys/vm/unprivileged_userfaultfd", "0\n"),
            (
                "sys/kernel/mm/transparent_hugepage/enabled",
                "always madvise [never]\n",
            ),
        ],
        &[("proc/sys/user/max_user_namespaces", "0\n")],
        &[
            ("proc/sys/net/bridge/bridge-nf-call-iptables", "1\n"),
            ("sys/class/net/br0/bridge/stp_state", "0\n"),
            ("sys/class/net/br0/brif/tap0/x", ""),
            ("sys/class/net/br0/brif/tap1/x", ""),
        ],
    ];

    fn devices() -> Vec<KvmDevice> {
        vec![
            KvmDevice::Missing,
            KvmDevice::Refused(io::ErrorKind::PermissionDenied.into()),
            KvmDevice::Refused(io::ErrorKind::ResourceBusy.into()),
            KvmDevice::Broken("no".into()),
            KvmDevice::Works(Mips(2.6)),
            KvmDevice::Works(Mips(2000.0)),
        ]
    }

    #[test]
    fn what_hurts_ends_with_a_command() {
        let mut remedies = 0;
        for files in HOSTS {
            let folder = tempfile::tempdir().unwrap();
            for (path, text) in *files {
                let path = folder.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            let host = Host::in_folder(folder.path());
            for device in devices() {
                let mut findings = examine(&host, &device);
                findings.push(devices::io_uring(&host, Err("refused".into())));
                findings.push(devices::userfaultfd(&host, false));
                for finding in findings {
                    if finding.verdict == Verdict::Bad {
                        assert!(finding.remedy.is_some(), "{finding:?}");
                    }
                    if let Some(remedy) = &finding.remedy {
                        let first = remedy.command.split(' ').next().unwrap_or_default();
                        assert!(COMMANDS.contains(&first), "{finding:?}");
                        assert!(
                            !remedy.command.contains("dmesg"),
                            "looking mends nothing: {finding:?}"
                        );
                        remedies += 1;
                    }
                }
            }
        }
        assert!(remedies > 50, "{remedies}");
    }
}
