//! INT3 in guest memory, where the accelerator has few breakpoints of its own. A debugger does not see them.

use ostler_memory::GuestRam;
use ostler_memory::vm_memory::{Bytes, GuestAddress};

/// The instruction.
const INT3: u8 = 0xcc;
/// Most of them.
const MOST: usize = 1000;

#[derive(Debug, Clone, Copy)]
struct Patch {
    linear: u64,
    physical: u64,
    original: u8,
}

/// The patches in a guest's memory.
#[derive(Debug, Default)]
pub(super) struct Patches(Vec<Patch>);

impl Patches {
    /// The linear addresses that were patched.
    pub fn linear(&self) -> Vec<u64> {
        self.0.iter().map(|patch| patch.linear).collect()
    }

    /// Patches a byte, unless it is patched already. False if there is no memory, or there are too many.
    pub fn insert(&mut self, ram: &GuestRam, linear: u64, physical: u64) -> bool {
        let known = |patch: &Patch| patch.linear == linear && patch.physical == physical;
        if self.0.iter().any(known) {
            return true;
        }
        // The same byte may have two addresses.
        let twin = self.0.iter().find(|patch| patch.physical == physical);
        let original = match twin {
            Some(twin) => Some(twin.original),
            None => ram.read_obj::<u8>(GuestAddress(physical)).ok(),
        };
        let Some(original) = original.filter(|_| self.0.len() < MOST) else {
            return false;
        };
        if ram.write_obj(INT3, GuestAddress(physical)).is_err() {
            return false;
        }
        self.0.push(Patch {
            linear,
            physical,
            original,
        });
        true
    }

    /// Takes the patch at `linear` away.
    pub fn remove(&mut self, ram: &GuestRam, linear: u64) {
        if let Some(at) = self.0.iter().position(|patch| patch.linear == linear) {
            let patch = self.0.remove(at);
            if self.0.iter().all(|other| other.physical != patch.physical) {
                restore(ram, patch);
            }
        }
    }

    /// Takes all patches away.
    pub fn remove_all(&mut self, ram: &GuestRam) {
        for patch in self.0.drain(..) {
            restore(ram, patch);
        }
    }

    /// Shows what is behind the patches in `bytes`, which were read at `physical`.
    pub fn hide(&self, physical: u64, bytes: &mut [u8]) {
        for patch in &self.0 {
            let offset = patch.physical.wrapping_sub(physical);
            if let Some(byte) = usize::try_from(offset).ok().and_then(|at| bytes.get_mut(at)) {
                *byte = patch.original;
            }
        }
    }

    /// Writes to guest memory, behind the patches where there are some. False if there is no memory.
    pub fn write(&mut self, ram: &GuestRam, physical: u64, bytes: &[u8]) -> bool {
        let mut written = bytes.to_vec();
        for patch in &mut self.0 {
            let offset = patch.physical.wrapping_sub(physical);
            if let Ok(at) = usize::try_from(offset)
                && let Some(&byte) = bytes.get(at)
            {
                patch.original = byte;
                written[at] = INT3;
            }
        }
        ram.write_slice(&written, GuestAddress(physical)).is_ok()
    }
}

/// Puts the byte back, unless the guest has written another one (or was loaded anew) since.
fn restore(ram: &GuestRam, patch: Patch) {
    let place = GuestAddress(patch.physical);
    if ram.read_obj::<u8>(place).is_ok_and(|byte| byte == INT3) {
        // It was memory a moment ago.
        let _ = ram.write_obj(patch.original, place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_memory::{RamOptions, allocate};

    fn byte(ram: &GuestRam, at: u64) -> u8 {
        ram.read_obj(GuestAddress(at)).unwrap()
    }

    #[test]
    fn a_debugger_reads_and_writes_what_is_behind_a_patch() {
        let ram = allocate(4096, RamOptions::default()).unwrap();
        ram.write_slice(b"abcd", GuestAddress(16)).unwrap();
        let mut patches = Patches::default();
        assert!(patches.insert(&ram, 0x8000_0011, 17));
        assert!(patches.insert(&ram, 0x9000_0011, 17), "another address of it");
        assert!(!patches.insert(&ram, 0, 4096), "no memory");
        assert_eq!(byte(&ram, 17), INT3);
        let mut seen = *b"aXcd";
        patches.hide(16, &mut seen);
        assert_eq!(&seen, b"abcd");
        assert!(patches.write(&ram, 15, b"12345"));
        assert_eq!(byte(&ram, 17), INT3);
        patches.remove(&ram, 0x8000_0011);
        assert_eq!(byte(&ram, 17), INT3);
        patches.remove(&ram, 0x9000_0011);
        assert_eq!(
            (byte(&ram, 16), byte(&ram, 17), byte(&ram, 18)),
            (b'2', b'3', b'4')
        );
    }

    #[test]
    fn what_the_guest_wrote_over_a_patch_stays() {
        let ram = allocate(4096, RamOptions::default()).unwrap();
        let mut patches = Patches::default();
        for at in [5, 6] {
            assert!(patches.insert(&ram, at, at));
        }
        ram.write_obj(9u8, GuestAddress(5)).unwrap();
        patches.remove_all(&ram);
        assert_eq!((byte(&ram, 5), byte(&ram, 6)), (9, 0));
    }
}
