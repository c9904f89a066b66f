//! `ostler doctor`: what this host can do for guests, in plain words.

mod devices;
mod finding;
mod host;
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
        devices::io_uring(host),
        devices::userfaultfd(host),
        devices::huge_pages(host),
        devices::user_namespaces(host),
        devices::bridge(host),
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
            text += &format!("{:>24}to mend it: {remedy}\n", "");
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
