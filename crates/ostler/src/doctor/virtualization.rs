//! What the processor, the modules and /dev/kvm offer.

use std::io;

use super::finding::{Finding, Remedy};
use super::host::Host;
use crate::accelerator::{DEV_KVM, KvmDevice};

/// The processor's virtualization, as its flags say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extension {
    Vmx,
    Svm,
}

impl Extension {
    fn name(self) -> &'static str {
        match self {
            Self::Vmx => "VT-x (vmx)",
            Self::Svm => "AMD-V (svm)",
        }
    }

    fn module(self) -> &'static str {
        match self {
            Self::Vmx => "kvm_intel",
            Self::Svm => "kvm_amd",
        }
    }
}

struct Processor {
    extension: Option<Extension>,
    /// This host is a guest itself.
    nested: bool,
    is_amd: bool,
}

fn processor(host: &Host) -> Processor {
    let info = host.text("/proc/cpuinfo").unwrap_or_default();
    let line = |key: &str| {
        info.lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_default()
    };
    let flag = |name: &str| line("flags").split_whitespace().any(|flag| flag == name);
    let extension = if flag("vmx") {
        Some(Extension::Vmx)
    } else if flag("svm") {
        Some(Extension::Svm)
    } else {
        None
    };
    Processor {
        extension,
        nested: flag("hypervisor"),
        is_amd: line("vendor_id").contains("AMD"),
    }
}

/// The flags, and where they are missing, why that may be.
pub fn flags(host: &Host) -> Finding {
    const NAME: &str = "cpu-flags";
    let cpu = processor(host);
    let module = if cpu.is_amd { "kvm_amd" } else { "kvm_intel" };
    match cpu.extension {
        Some(extension) => Finding::good(NAME, format!("the processor offers {}", extension.name())),
        None if cpu.nested => Finding::bad(
            NAME,
            "the processor offers no VT-x or AMD-V: this host is itself a virtual machine without nesting",
            Remedy::with_note(
                format!("sudo modprobe -r {module}; sudo modprobe {module} nested=1"),
                "on the machine that runs this one",
            ),
        ),
        None => Finding::bad(
            NAME,
            "the processor offers no VT-x or AMD-V: the firmware has locked it, or the processor has none",
            Remedy::with_note(
                "sudo systemctl reboot --firmware-setup",
                "and there switch on VT-x (Intel) or SVM (AMD)",
            ),
        ),
    }
}

/// The modules.
pub fn modules(host: &Host) -> Finding {
    const NAME: &str = "kvm-modules";
    let loaded: Vec<_> = ["kvm", "kvm_intel", "kvm_amd"]
        .into_iter()
        .filter(|m| host.has_module(m))
        .collect();
    match processor(host).extension {
        Some(extension) if !host.has_module(extension.module()) => Finding::bad(
            NAME,
            format!("the module {} is not loaded", extension.module()),
            Remedy::command(format!("sudo modprobe {}", extension.module())),
        ),
        _ if loaded.is_empty() => Finding::fair(
            NAME,
            "no KVM module is loaded; without VT-x or AMD-V none would help",
        ),
        _ => Finding::good(NAME, format!("loaded: {}", loaded.join(", "))),
    }
}

/// /dev/kvm: there, usable, fast.
pub fn device(host: &Host, device: &KvmDevice) -> Finding {
    const NAME: &str = "dev-kvm";
    let says = device.reason();
    match device {
        KvmDevice::Works(_) if device.is_fast() => Finding::good(NAME, says),
        KvmDevice::Works(_) => Finding::fair(NAME, says),
        KvmDevice::Refused(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::bad(
            NAME,
            format!("you may not open {DEV_KVM}, so guests run on the slow software CPU"),
            Remedy::with_note("sudo usermod -aG kvm $USER", "then log in again"),
        ),
        KvmDevice::Missing => match processor(host).extension {
            None => Finding::fair(NAME, says),
            Some(extension) => Finding::bad(
                NAME,
                says,
                Remedy::command(format!("sudo modprobe {}", extension.module())),
            ),
        },
        KvmDevice::Refused(_) | KvmDevice::Broken(_) => match processor(host).extension {
            None => Finding::fair(
                NAME,
                format!("{says}; without VT-x or AMD-V no command here mends that"),
            ),
            Some(extension) => {
                let module = extension.module();
                Finding::bad(
                    NAME,
                    says,
                    Remedy::with_note(
                        format!("sudo modprobe -r {module}; sudo modprobe {module}"),
                        "after other hypervisors have ended; sudo dmesg shows what the module says",
                    ),
                )
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use ostler_accel::probe::Mips;
    use std::fs;

    fn host(flags: &str, modules: &[&str]) -> (Host, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("proc")).unwrap();
        let info = format!("vendor_id\t: GenuineIntel\nflags\t\t: fpu {flags} sse2\n");
        fs::write(dir.path().join("proc/cpuinfo"), info).unwrap();
        for module in modules {
            fs::create_dir_all(dir.path().join("sys/module").join(module)).unwrap();
        }
        (Host::in_folder(dir.path()), dir)
    }

    #[test]
    fn a_good_host_is_good() {
        let (host, _dir) = host("vmx", &["kvm", "kvm_intel"]);
        assert_eq!(flags(&host).verdict, Verdict::Good);
        assert_eq!(modules(&host).says, "loaded: kvm, kvm_intel");
        assert_eq!(
            device(&host, &KvmDevice::Works(Mips(2000.0))).verdict,
            Verdict::Good
        );
    }

    #[test]
    fn each_trouble_has_its_remedy() {
        let (nested, _dir) = host("hypervisor", &[]);
        assert!(flags(&nested).remedy.unwrap().command.contains("nested=1"));
        let (locked, _dir) = host("", &[]);
        assert!(flags(&locked).remedy.unwrap().command.contains("firmware"));
        let (unloaded, _dir) = host("svm", &["kvm"]);
        assert_eq!(
            modules(&unloaded).remedy.unwrap().command,
            "sudo modprobe kvm_amd"
        );
        let refused = KvmDevice::Refused(io::ErrorKind::PermissionDenied.into());
        assert!(
            device(&unloaded, &refused)
                .remedy
                .unwrap()
                .command
                .contains("usermod -aG kvm")
        );
    }

    #[test]
    fn a_device_that_fails_is_mended_by_its_module_or_by_nothing() {
        let broken = KvmDevice::Broken("the host is busy".into());
        let busy = KvmDevice::Refused(io::ErrorKind::ResourceBusy.into());
        let (able, _dir) = host("svm", &["kvm", "kvm_amd"]);
        let (unable, _dir) = host("hypervisor", &["kvm"]);
        for trouble in [broken, busy] {
            let finding = device(&able, &trouble);
            assert_eq!(finding.verdict, Verdict::Bad);
            let command = finding.remedy.unwrap().command;
            assert_eq!(command, "sudo modprobe -r kvm_amd; sudo modprobe kvm_amd");
            let finding = device(&unable, &trouble);
            assert_eq!((finding.verdict, finding.remedy), (Verdict::Fair, None));
            assert!(finding.says.contains("no command here mends that"));
        }
        assert_eq!(
            device(&able, &KvmDevice::Missing).remedy.unwrap().command,
            "sudo modprobe kvm_amd"
        );
    }

    #[test]
    fn a_device_that_emulates_is_not_good() {
        let (host, _dir) = host("hypervisor", &["kvm"]);
        let finding = device(&host, &KvmDevice::Works(Mips(2.6)));
        assert_eq!(finding.verdict, Verdict::Fair);
        assert!(finding.says.contains("emulates"));
    }
}
