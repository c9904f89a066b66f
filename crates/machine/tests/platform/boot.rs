//! The boot loaders on real kernels, where there is one.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use ostler_machine::{Blob, Boot, BootSource, Machine, MachineConfig, MachineType};
use vm_memory::{Bytes, GuestAddress};

use crate::bench::{MockVm, Outside};

/// The kernel and initrd that `./quickstart` fetches, or those in OSTLER_GUEST.
fn guest() -> Option<(PathBuf, PathBuf)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
    let folder = std::env::var_os("OSTLER_GUEST").map_or(root, PathBuf::from);
    let (kernel, initrd) = (folder.join("vmlinuz"), folder.join("initrd.img"));
    (kernel.exists() && initrd.exists()).then_some((kernel, initrd))
}

#[test]
fn debians_kernel_is_loaded_as_its_header_asks() {
    let Some((kernel, initrd)) = guest() else {
        eprintln!(
            "SKIPPED debians_kernel_is_loaded_as_its_header_asks: there is no guest; run ./quickstart first"
        );
        return;
    };
    let ram = ostler_memory::allocate(512 << 20, Default::default()).unwrap();
    let outside = Arc::new(Outside::default());
    let machine = Machine::build(MachineConfig {
        machine_type: MachineType::default(),
        places: None,
        ram: ram.clone(),
        vm: Arc::new(MockVm::default()),
        cpus: 2,
        boot_cpus: 2,
        boot: Boot::Kernel(BootSource {
            kernel: Blob::File(File::open(&kernel).unwrap()),
            initrd: Some(Blob::File(File::open(&initrd).unwrap())),
            command_line: "console=ttyS0".into(),
        }),
        functions: Vec::new(),
        sata: None,
        display: None,
        watchdog: false,
        generation_id: None,
        rtc_offset: 0,
        suspend: false,
        serial: Some(outside.clone()),
        events: outside,
        debug_exit: None,
        test_device: false,
    })
    .unwrap();
    let state = machine.boot_state(0);
    let zero_page = state.gpr[6];
    let dword = |at: u64| u64::from(ram.read_obj::<u32>(GuestAddress(zero_page + at)).unwrap());
    assert_eq!(
        state.rip,
        dword(0x258) + 0x200,
        "the 64-bit entry behind the preferred address"
    );
    let (initrd_at, initrd_len) = (dword(0x218), dword(0x21c));
    let mut loaded = vec![0; initrd_len as usize];
    ram.read_slice(&mut loaded, GuestAddress(initrd_at)).unwrap();
    assert!(loaded == std::fs::read(&initrd).unwrap());
    assert!(initrd_at + initrd_len <= 512 << 20 && initrd_at >= dword(0x258) + dword(0x260));

    let entry = ram.read_obj::<u64>(GuestAddress(state.rip)).unwrap();
    ram.write_slice(&[0; 8], GuestAddress(state.rip)).unwrap();
    machine.reset().unwrap();
    assert_eq!(
        ram.read_obj::<u64>(GuestAddress(state.rip)).unwrap(),
        entry,
        "a reset loads the kernel again"
    );
    assert_eq!(machine.boot_state(0), state);
}
