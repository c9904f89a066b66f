//! SMIs by command: port 0xb2 of the ICH9 (ICH9 13.7), and what firmware agrees on with the machine by fw_cfg (QEMU's docs/specs:
//! `etc/smi/supported-features`, `etc/smi/requested-features`, `etc/smi/features-ok`).

use std::sync::{Arc, Mutex};

use ostler_accel::{SmiTarget, Vm};

use super::fw_cfg::{FileDevice, Items};
use crate::registers::lock;

/// A command raises an SMI on all vCPUs, not on the one that wrote it.
const BROADCAST: u64 = 1;
const SUPPORTED: u64 = BROADCAST;

/// What was agreed on. Nothing is before firmware looked whether its wishes are all right; and nothing changes after that.
#[derive(Debug, Default)]
struct Agreement {
    requested: [u8; 8],
    agreed: Option<u64>,
}

/// The SMI line, as the command port drives it.
pub struct Smi {
    vm: Arc<dyn Vm>,
    agreement: Arc<Mutex<Agreement>>,
}

impl Smi {
    /// The line of `vm`.
    pub fn new(vm: Arc<dyn Vm>) -> Self {
        Self {
            vm,
            agreement: Arc::default(),
        }
    }

    /// Lets firmware see and wish for features.
    pub fn add_files(&self, items: &mut Items) {
        items.add_file("etc/smi/supported-features", SUPPORTED.to_le_bytes().to_vec());
        items.add_device(
            "etc/smi/requested-features",
            Arc::new(Requested(self.agreement.clone())),
            8,
        );
        items.add_device(
            "etc/smi/features-ok",
            Arc::new(FeaturesOk(self.agreement.clone())),
            1,
        );
    }

    /// Back to the reset state.
    pub fn reset(&self) {
        *lock(&self.agreement) = Agreement::default();
    }

    /// A command was written, on a vCPU's thread.
    pub fn raise(&self) {
        let agreed = lock(&self.agreement).agreed.unwrap_or(0);
        let to = if agreed & BROADCAST != 0 {
            SmiTarget::All
        } else {
            SmiTarget::One(ostler_accel::initiator().map_or(0, |initiator| initiator.vcpu))
        };
        if let Some(smm) = self.vm.system_management() {
            smm.raise_smi(to);
        }
    }
}

/// The features that firmware wishes for.
#[derive(Debug)]
struct Requested(Arc<Mutex<Agreement>>);

impl FileDevice for Requested {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let bytes = lock(&self.0).requested;
        for (byte, value) in data.iter_mut().zip(bytes.iter().skip(offset as usize)) {
            *byte = *value;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> bool {
        let mut agreement = lock(&self.0);
        if agreement.agreed.is_some() {
            return false;
        }
        let bytes = agreement.requested.iter_mut().skip(offset as usize);
        bytes.zip(data).for_each(|(byte, value)| *byte = *value);
        true
    }
}

/// Reads as one if the wishes are all right, and as zero else.
#[derive(Debug)]
struct FeaturesOk(Arc<Mutex<Agreement>>);

impl FileDevice for FeaturesOk {
    fn read(&self, _: u64, data: &mut [u8]) {
        let mut agreement = lock(&self.0);
        let wishes = u64::from_le_bytes(agreement.requested);
        if agreement.agreed.is_none() && wishes & !SUPPORTED == 0 {
            agreement.agreed = Some(wishes);
        }
        data.fill(u8::from(agreement.agreed.is_some()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_agreed_on_once_and_only_if_there_is_such_a_feature() {
        let agreement = Arc::<Mutex<Agreement>>::default();
        let (requested, ok) = (Requested(agreement.clone()), FeaturesOk(agreement.clone()));
        let answer = || {
            let mut byte = [9];
            ok.read(0, &mut byte);
            byte[0]
        };
        assert!(requested.write(0, &[3, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(answer(), 0);
        assert!(requested.write(0, &[1]));
        assert_eq!(answer(), 1);
        assert!(!requested.write(0, &[0]), "it is settled");
        assert_eq!(lock(&agreement).agreed, Some(BROADCAST));
        let mut bytes = [0; 12];
        requested.read(0, &mut bytes);
        assert_eq!(bytes[..8], BROADCAST.to_le_bytes());
        requested.read(u64::MAX, &mut bytes);
    }
}
