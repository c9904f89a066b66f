//! The accelerator that a specification names.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use ostler_accel::{Accelerator, CpuidLeaf};
use ostler_kvm::Kvm;
use ostler_softcpu::vm::{Engine, SoftCpu};

use crate::Error;
use crate::handoff::Descriptors;
use crate::spec::{AcceleratorSpec, SoftEngine};

/// Makes it, from the descriptor that was handed over.
pub(crate) fn open(spec: &AcceleratorSpec, descriptors: &Descriptors) -> Result<Arc<dyn Accelerator>, Error> {
    match spec {
        AcceleratorSpec::Kvm { device } => {
            let kvm = Kvm::from_fd(descriptors.duplicate(*device)?).map_err(|e| Error::part("KVM", e))?;
            Ok(Arc::new(kvm))
        }
        AcceleratorSpec::Soft { engine } => Ok(Arc::new(SoftCpu {
            engine: match engine {
                SoftEngine::Interpreter => Engine::Interpreter,
                SoftEngine::Translator => Engine::default(),
            },
        })),
    }
}

/// What guests' CPUs can have at most: on KVM, by the device that is given, or in software.
pub fn supported_cpuid(kvm: Option<OwnedFd>) -> Result<Vec<CpuidLeaf>, Error> {
    let supported = match kvm {
        Some(device) => Kvm::from_fd(device).and_then(|kvm| kvm.supported_cpuid()),
        None => SoftCpu::default().supported_cpuid(),
    };
    supported.map_err(|error| Error::part("CPUs", error))
}

/// Whether guests can have system management mode: on KVM, by the device that is given, or in software.
pub fn has_system_management(kvm: Option<OwnedFd>) -> Result<bool, Error> {
    let Some(device) = kvm else {
        return Ok(true);
    };
    let kvm = Kvm::from_fd(device).map_err(|error| Error::part("KVM", error))?;
    Ok(kvm.has_system_management())
}
