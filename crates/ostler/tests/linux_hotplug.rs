//! A disk that comes and goes while real Linux runs: its `pciehp` and our root ports, without a control socket between. The test
//! owns the machine itself.

mod support;

use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ostler_accel::model::{self, Topology};
use ostler_accel::{Accelerator, Exit, Kick, KickSource, Vcpu, Vm, VmConfig};
use ostler_disk::RawDisk;
use ostler_machine::{
    Blob, Boot, BootSource, Machine, MachineConfig, MachineEvent, MachineEvents, MachineType, SerialBackend,
};
use ostler_memory::{GuestRam, RamOptions, RamSlot, allocate};
use ostler_softcpu::vm::SoftCpu;
use ostler_virtio::block::{BlockDevice, BlockOptions};
use ostler_virtio::{Platform, VirtioPci};
use support::{assert_healthy, guest_folder};

const LIMIT: Duration = Duration::from_secs(240);
const MEMORY: u64 = 256 << 20;
const DISK_SIZE: u64 = 1 << 20;
/// The slot as Linux counts them, from 1.
const SLOT: u8 = 2;

/// Tells what it finds in the slot, twice. When the power is off, Linux waits for a second and looks at nothing that comes
/// meanwhile; only when that is over does it answer that the slot is disabled.
const SCRIPT: &str = "
dmesg -n 1
look() { echo slot is $(cat /sys/bus/pci/slots/2/power), functions: $(ls /sys/bus/pci/devices | grep -c ^0000:02:); }
is_disabled() { dmesg -c >>/log; echo 0 >/sys/bus/pci/slots/2/power; dmesg | grep -q 'Already disabled'; }
for round in 1 2; do
	look; echo empty $round
	while ! head -c 1 /dev/vda >/dev/null 2>&1; do usleep 50000; done
	look; cat /sys/block/vda/serial; echo; tr -d '\\000' </dev/vda; echo
	echo written in round $round | dd of=/dev/vda bs=512 seek=1 conv=fsync 2>/dev/null
	echo in use $round
	while [ -e /dev/vda ]; do usleep 50000; done
	until is_disabled 2>/dev/null; do usleep 50000; done
done
look; echo over
dmesg >>/log; cat /log; dmesg -n 8
";

/// The outside end of everything.
struct Outside {
    console: Mutex<mpsc::Sender<Vec<u8>>>,
    ended: AtomicBool,
    cpu: Mutex<Option<Arc<dyn Kick>>>,
}

impl SerialBackend for Outside {
    fn output(&self, bytes: &[u8]) {
        // Whoever listened may have given up.
        let _ = self.console.lock().unwrap().send(bytes.to_vec());
    }

    fn input_room(&self) {}
}

impl MachineEvents for Outside {
    fn notify(&self, _: MachineEvent) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(cpu) = &*self.cpu.lock().unwrap() {
            cpu.kick(KickSource::Control);
        }
    }
}

/// A machine with one CPU, which runs.
struct Guest {
    machine: Arc<Machine>,
    platform: Platform,
    console: mpsc::Receiver<Vec<u8>>,
    shown: Vec<u8>,
    cpu: JoinHandle<()>,
}

impl Guest {
    fn start(script: &str) -> Self {
        let ram: Arc<GuestRam> = allocate(MEMORY, RamOptions::default()).unwrap();
        let accelerator = SoftCpu::default();
        let slots = RamSlot::all_of(&ram);
        let vm: Arc<dyn Vm> = accelerator.create_vm(VmConfig { cpus: 1, slots }).unwrap();
        let mut initrd = fs::read(guest_folder().join("initrd.img")).unwrap();
        initrd.extend(ostler_guest_image::overlay(script, &[]));
        let (sender, console) = mpsc::channel();
        let outside = Arc::new(Outside {
            console: Mutex::new(sender),
            ended: AtomicBool::new(false),
            cpu: Mutex::new(None),
        });
        let machine = Machine::build(MachineConfig {
            machine_type: MachineType::default(),
            places: None,
            ram: ram.clone(),
            vm: vm.clone(),
            cpus: 1,
            boot_cpus: 1,
            boot: Boot::Kernel(BootSource {
                kernel: Blob::File(File::open(guest_folder().join("vmlinuz")).unwrap()),
                initrd: Some(Blob::Bytes(initrd)),
                command_line: "console=ttyS0 panic=-1".into(),
            }),
            functions: Vec::new(),
            sata: None,
            display: None,
            watchdog: false,
            generation_id: None,
            rtc_offset: 0,
            suspend: false,
            serial: Some(outside.clone()),
            events: outside.clone(),
            debug_exit: None,
            test_device: false,
        });
        let machine = Arc::new(machine.unwrap());
        let cpuid = accelerator.supported_cpuid().unwrap();
        let cpuid = model::build("max", &cpuid, Topology { cpus: 1 }, 0).unwrap();
        let mut vcpu = vm.create_vcpu(0, &cpuid).unwrap();
        *outside.cpu.lock().unwrap() = Some(vcpu.kicker());
        vcpu.set_state(&machine.boot_state(0)).unwrap();
        let its_machine = machine.clone();
        let cpu = std::thread::spawn(move || run(&mut *vcpu, &its_machine, &outside.ended));
        Self {
            platform: Platform {
                ram,
                msi: vm.clone(),
                doorbells: vm,
            },
            machine,
            console,
            shown: Vec::new(),
            cpu,
        }
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&self.shown).replace('\r', "")
    }

    /// Waits until the console has shown `text`.
    fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.console().contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.console.recv_timeout(left) {
                Ok(bytes) => self.shown.extend(bytes),
                Err(reason) => panic!("waiting for {text:?}: {reason}; shown:\n{}", self.console()),
            }
        }
    }

    /// A disk as a PCI function, not in the machine yet.
    fn disk(&self, file: File, serial: &str) -> Arc<VirtioPci> {
        let options = BlockOptions {
            serial: serial.into(),
            queues: 1,
        };
        let device = BlockDevice::new(Arc::new(RawDisk::new(file).unwrap()), &options);
        VirtioPci::new(Box::new(device), &self.platform).unwrap()
    }
}

/// The loop of the one CPU, until the machine tells of its end.
fn run(vcpu: &mut dyn Vcpu, machine: &Machine, ended: &AtomicBool) {
    while !ended.load(Ordering::SeqCst) {
        match vcpu.run().unwrap() {
            Exit::PortRead { port, width, data } => {
                for item in data.chunks_mut(width.into()) {
                    machine.ports().read(port.into(), item);
                }
            }
            Exit::PortWrite { port, width, data } => {
                for item in data.chunks(width.into()) {
                    machine.ports().write(port.into(), item);
                }
            }
            Exit::MmioRead { gpa, data } => {
                machine.memory().read(gpa, data);
            }
            Exit::MmioWrite { gpa, data } => {
                machine.memory().write(gpa, data);
            }
            Exit::EndOfInterrupt { vector } => machine.end_of_interrupt(vector),
            Exit::Kicked => {}
            exit => panic!("the guest left by {exit:?}"),
        }
    }
}

#[test]
fn linux_takes_a_disk_and_lets_it_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut guest = Guest::start(SCRIPT);
    for round in ["1", "2"] {
        let path = folder.path().join(round);
        let mut contents = format!("disk of round {round}").into_bytes();
        contents.resize(DISK_SIZE as usize, 0);
        fs::write(&path, contents).unwrap();
        guest.expect(&format!("slot is 0, functions: 0\nempty {round}\n"));

        let file = File::options().read(true).write(true).open(&path).unwrap();
        let disk = guest.disk(file, &format!("serial{round}"));
        let there = Arc::downgrade(&disk);
        guest.machine.plug(SLOT - 1, disk).unwrap();
        guest.expect(&format!(
            "slot is 1, functions: 1\nserial{round}\ndisk of round {round}\nin use {round}\n"
        ));

        guest.machine.request_unplug(SLOT - 1).unwrap();
        let next = if round == "1" { "empty 2\n" } else { "over\n" };
        guest.expect(next);
        assert!(there.upgrade().is_none(), "nothing holds the disk any more");
        let written = fs::read(&path).unwrap();
        assert!(written[512..].starts_with(format!("written in round {round}\n").as_bytes()));
    }
    guest.expect("reboot: Power down");
    guest.cpu.join().unwrap();
    let console = String::from_utf8_lossy(&guest.shown).replace('\r', "");
    assert!(console.contains("slot is 0, functions: 0\nover\n"), "{console}");
    assert_healthy(&console);
}
