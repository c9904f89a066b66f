//! Which accelerator a guest gets, and why.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use ostler_accel::probe::{self, Mips};
use ostler_kvm::Kvm;

use crate::failure::Failure;
use crate::run::AccelOption;

/// The device.
pub const DEV_KVM: &str = "/dev/kvm";

/// What /dev/kvm is good for here.
#[derive(Debug)]
pub enum KvmDevice {
    /// There is none.
    Missing,
    /// It cannot be opened.
    Refused(io::Error),
    /// It opened, but the probe guest did not run.
    Broken(String),
    /// The probe guest ran, at this speed.
    Works(Mips),
}

impl KvmDevice {
    /// Opens and times the device.
    pub fn look(path: &Path) -> (Self, Option<OwnedFd>) {
        let descriptor = match File::options().read(true).write(true).open(path) {
            Ok(file) => OwnedFd::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (Self::Missing, None),
            Err(error) => return (Self::Refused(error), None),
        };
        let speed = descriptor
            .try_clone()
            .map_err(|e| e.to_string())
            .and_then(|copy| Kvm::from_fd(copy).map_err(|e| e.to_string()))
            .and_then(|kvm| probe::measure(&kvm).map_err(|e| e.to_string()));
        match speed {
            Ok(speed) => (Self::Works(speed), Some(descriptor)),
            Err(why) => (Self::Broken(why), Some(descriptor)),
        }
    }

    /// True if a whole guest runs well on it.
    pub fn is_fast(&self) -> bool {
        matches!(self, Self::Works(speed) if speed.is_hardware_speed())
    }

    /// Why it is or is not used, as the end of a sentence.
    pub fn reason(&self) -> String {
        match self {
            Self::Missing => format!("this host has no {DEV_KVM}"),
            Self::Refused(error) if error.kind() == io::ErrorKind::PermissionDenied => format!(
                "you may not open {DEV_KVM}: join its group with 'sudo usermod -aG kvm $USER' and log in again, \
                 or the guest stays slow"
            ),
            Self::Refused(error) => format!("{DEV_KVM} does not open: {error}"),
            Self::Broken(why) => format!("the probe guest does not run on {DEV_KVM}: {why}"),
            Self::Works(speed) if speed.is_hardware_speed() => {
                format!("{DEV_KVM} runs at hardware speed, {speed}")
            }
            Self::Works(speed) => {
                format!(
                    "{DEV_KVM} only emulates a kernel's code, at {speed}: the host has no virtualization hardware"
                )
            }
        }
    }
}

/// The accelerator of a guest.
#[derive(Debug)]
pub struct Choice {
    /// /dev/kvm, or `None` for the software CPU.
    pub kvm: Option<OwnedFd>,
    /// Why, as the end of a sentence.
    pub reason: String,
}

impl Choice {
    /// Its name for people.
    pub fn name(&self) -> &'static str {
        if self.kvm.is_some() {
            "KVM"
        } else {
            "the software CPU"
        }
    }
}

/// Follows the user's wish, or finds the accelerator that serves best.
pub fn choose(wish: AccelOption) -> Result<Choice, Failure> {
    match wish {
        AccelOption::Soft => Ok(Choice {
            kvm: None,
            reason: "as --accel soft asks".into(),
        }),
        AccelOption::Kvm => insist(Path::new(DEV_KVM)),
        AccelOption::Auto => {
            let (device, descriptor) = KvmDevice::look(Path::new(DEV_KVM));
            Ok(judge(&device, descriptor))
        }
    }
}

/// KVM, whatever its speed.
fn insist(path: &Path) -> Result<Choice, Failure> {
    match File::options().read(true).write(true).open(path) {
        Ok(file) => Ok(Choice {
            kvm: Some(file.into()),
            reason: "as --accel kvm asks".into(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::bad_input(format!(
            "{}; use --accel soft",
            KvmDevice::Missing.reason()
        ))),
        Err(error) => Err(Failure::bad_input(KvmDevice::Refused(error).reason())),
    }
}

/// What `auto` takes when the device is like this: KVM only if a whole guest runs well on it.
fn judge(device: &KvmDevice, descriptor: Option<OwnedFd>) -> Choice {
    Choice {
        kvm: descriptor.filter(|_| device.is_fast()),
        reason: device.reason(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::BAD_INPUT;

    #[test]
    fn only_hardware_speed_is_good_enough() {
        assert!(KvmDevice::Works(Mips(1500.0)).is_fast());
        assert!(!KvmDevice::Works(Mips(2.6)).is_fast());
        assert!(!KvmDevice::Broken("no".into()).is_fast());
    }

    fn descriptor() -> Option<OwnedFd> {
        Some(File::open("/dev/null").unwrap().into())
    }

    #[test]
    fn auto_takes_kvm_only_at_hardware_speed() {
        let fast = judge(&KvmDevice::Works(Mips(1500.0)), descriptor());
        assert_eq!((fast.kvm.is_some(), fast.name()), (true, "KVM"));
        assert!(
            fast.reason.contains("hardware speed, 1500 million"),
            "{}",
            fast.reason
        );

        let refused = |kind: io::ErrorKind| KvmDevice::Refused(kind.into());
        for (device, found, says) in [
            (KvmDevice::Works(Mips(2.6)), true, "only emulates"),
            (KvmDevice::Broken("no VM".into()), true, "no VM"),
            (
                refused(io::ErrorKind::PermissionDenied),
                false,
                "usermod -aG kvm $USER",
            ),
            (refused(io::ErrorKind::ResourceBusy), false, "does not open"),
            (KvmDevice::Missing, false, "has no /dev/kvm"),
        ] {
            let choice = judge(&device, descriptor().filter(|_| found));
            assert!(choice.kvm.is_none(), "{device:?}");
            assert_eq!(choice.name(), "the software CPU");
            assert!(choice.reason.contains(says), "{device:?}: {}", choice.reason);
        }
    }

    #[test]
    fn a_wish_is_followed_or_refused() {
        assert!(choose(AccelOption::Soft).unwrap().kvm.is_none());
        assert!(insist(Path::new("/dev/null")).unwrap().kvm.is_some());
        let missing = insist(Path::new("/nonexistent/kvm")).unwrap_err();
        assert_eq!(missing.status, BAD_INPUT);
        assert!(missing.message.contains("--accel soft"), "{}", missing.message);
    }

    #[test]
    fn a_permission_problem_comes_with_its_remedy() {
        let refused = KvmDevice::Refused(io::ErrorKind::PermissionDenied.into());
        assert!(refused.reason().contains("usermod -aG kvm"));
    }

    #[test]
    fn a_file_that_is_no_kvm_is_broken() {
        let (device, _) = KvmDevice::look(Path::new("/dev/null"));
        assert!(matches!(device, KvmDevice::Broken(_)), "{device:?}");
        let (device, _) = KvmDevice::look(Path::new("/nonexistent/kvm"));
        assert!(matches!(device, KvmDevice::Missing), "{device:?}");
    }
}
