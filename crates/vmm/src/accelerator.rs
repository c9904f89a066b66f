//! The accelerator that a specification names.

use std::sync::Arc;

use ostler_accel::Accelerator;
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
