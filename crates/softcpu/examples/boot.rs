//! Boots a Linux kernel on the bare platform and shows its serial port: `boot KERNEL INITRD CPUS MEGABYTES [COMMAND LINE]`.
//!
//! Prints the instructions executed and the seconds used when the guest switches off, or at the line that begins with the
//! text in the environment variable `UNTIL`. `MODEL` names the CPU model.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ostler_accel::model::Topology;
use ostler_accel::{
    Accelerator, Exit, ExitCause, Kick, KickSource, TimeSpent, Vcpu, VcpuStats, Vm, VmConfig,
};
use ostler_machine::{
    Blob, Boot, BootSource, Machine, MachineConfig, MachineEvent, MachineEvents, MachineType, SerialBackend,
};
use ostler_memory::{RamOptions, RamSlot};
use ostler_softcpu::vm::SoftCpu;

#[derive(Default)]
struct End {
    over: AtomicBool,
    kickers: Mutex<Vec<Arc<dyn Kick>>>,
    line: Mutex<Vec<u8>>,
}

impl End {
    fn finish(&self) {
        self.over.store(true, Ordering::SeqCst);
        for kicker in self.kickers.lock().unwrap().iter() {
            kicker.kick(KickSource::Control);
        }
    }
}

impl MachineEvents for End {
    fn notify(&self, event: MachineEvent) {
        eprintln!("[machine: {event:?}]");
        self.finish();
    }
}

impl SerialBackend for End {
    fn output(&self, bytes: &[u8]) {
        std::io::stdout().write_all(bytes).unwrap();
        std::io::stdout().flush().unwrap();
        let mut line = self.line.lock().unwrap();
        for &byte in bytes {
            line.push(byte);
            if byte == b'\n' {
                let until = std::env::var("UNTIL").unwrap_or_else(|_| "\0".into());
                if String::from_utf8_lossy(&line).starts_with(&until) {
                    self.finish();
                }
                line.clear();
            }
        }
    }
    fn input_room(&self) {}
}

fn drive(machine: &Machine, vcpu: &mut dyn Vcpu, end: &End) {
    while !end.over.load(Ordering::SeqCst) {
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
            exit => {
                eprintln!("[exit: {exit:?}]");
                end.finish();
            }
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let open = |n: usize| Blob::File(std::fs::File::open(&arguments[n]).unwrap());
    let cpus: u32 = arguments[3].parse().unwrap();
    let megabytes: u64 = arguments[4].parse().unwrap();
    let append = arguments
        .get(5)
        .cloned()
        .unwrap_or_else(|| "console=ttyS0 earlyprintk=serial".into());
    let ram = ostler_memory::allocate(megabytes << 20, RamOptions::default()).unwrap();
    let vm: Arc<dyn Vm> = SoftCpu::default()
        .create_vm(VmConfig {
            cpus,
            slots: RamSlot::all_of(&ram),
        })
        .unwrap();
    let end = Arc::new(End::default());
    let machine = Machine::build(MachineConfig {
        machine_type: MachineType::default(),
        places: None,
        ram,
        vm: vm.clone(),
        cpus,
        boot_cpus: cpus,
        boot: Boot::Kernel(BootSource {
            kernel: open(1),
            initrd: Some(open(2)),
            command_line: append,
        }),
        functions: Vec::new(),
        sata: None,
        display: None,
        watchdog: false,
        generation_id: None,
        rtc_offset: 0,
        suspend: false,
        serial: Some(end.clone()),
        events: end.clone(),
        debug_exit: Some(0xf4),
        test_device: false,
    })
    .unwrap();
    let begun = Instant::now();
    let host = SoftCpu::default().supported_cpuid().unwrap();
    let model = std::env::var("MODEL").unwrap_or_else(|_| "max".into());
    let mut all: Vec<Arc<VcpuStats>> = Vec::new();
    std::thread::scope(|scope| {
        for id in 0..cpus {
            let cpuid = ostler_accel::model::build(&model, &host, Topology { cpus }, id).unwrap();
            let mut vcpu = vm.create_vcpu(id, &cpuid).unwrap();
            vcpu.set_state(&machine.boot_state(id)).unwrap();
            end.kickers.lock().unwrap().push(vcpu.kicker());
            all.push(vcpu.stats());
            let (machine, end) = (&machine, &end);
            scope.spawn(move || drive(machine, &mut *vcpu, end));
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    for (id, stats) in all.iter().enumerate() {
        let instructions = stats.instructions().unwrap_or(0);
        eprintln!(
            "vcpu{id}: {instructions} instructions, {:.1} M/s",
            instructions as f64 / seconds / 1e6
        );
        for place in TimeSpent::ALL {
            eprintln!(
                "  {}: {:.3} s",
                place.name(),
                stats.time(*place).unwrap_or(0) as f64 / 1e9
            );
        }
        for cause in ExitCause::ALL {
            eprintln!("  {}: {}", cause.name(), stats.exits(*cause));
        }
    }
    eprintln!("{seconds:.2} s");
}
