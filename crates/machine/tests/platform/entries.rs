//! Kernels of a few bytes that the software CPU runs from their boot protocol's entry: they print, through the addresses that
//! the protocol gave them, what they were started with.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use ostler_accel::model::Topology;
use ostler_accel::{Accelerator, Exit, KickSource, Vcpu, VmConfig};
use ostler_machine::{Blob, Boot, BootSource, Machine, MachineConfig, MachineEvent, MachineType};
use ostler_memory::RamSlot;
use ostler_softcpu::vm::SoftCpu;

use crate::bench::Outside;

const COMMAND_LINE: &str = "root=/dev/vda quiet -- \"a b\"";

fn initrd() -> Vec<u8> {
    (0..5001u32).map(|i| (i * 7 + i / 256) as u8).collect()
}

/// [`run_in`] 64 MiB.
fn run(kernel: Vec<u8>) -> Vec<u8> {
    run_in(64 << 20, kernel)
}

/// Boots `kernel` with `memory` bytes of RAM, and returns what it sent to the serial port until it wrote to the debug-exit port.
fn run_in(memory: u64, kernel: Vec<u8>) -> Vec<u8> {
    let ram = ostler_memory::allocate(memory, Default::default()).unwrap();
    let outside = Arc::new(Outside::default());
    let accelerator = SoftCpu::default();
    let vm = accelerator
        .create_vm(VmConfig {
            cpus: 1,
            slots: RamSlot::all_of(&ram),
        })
        .unwrap();
    let machine = Machine::build(MachineConfig {
        machine_type: MachineType::default(),
        places: None,
        ram,
        vm: vm.clone(),
        cpus: 1,
        boot_cpus: 1,
        boot: Boot::Kernel(BootSource {
            kernel: Blob::Bytes(kernel),
            initrd: Some(Blob::Bytes(initrd())),
            command_line: COMMAND_LINE.into(),
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
        debug_exit: Some(0xf4),
        test_device: false,
    })
    .unwrap();
    let host = accelerator.supported_cpuid().unwrap();
    let cpuid = ostler_accel::model::build("max", &host, Topology { cpus: 1 }, 0).unwrap();
    let mut vcpu = vm.create_vcpu(0, &cpuid).unwrap();
    // Twice: a reset brings everything back.
    let mut outputs = Vec::new();
    for _ in 0..2 {
        vcpu.set_state(&machine.boot_state(0)).unwrap();
        drive(&machine, &mut *vcpu, &outside);
        assert_eq!(
            std::mem::take(&mut *outside.events.lock().unwrap()),
            [MachineEvent::DebugExit(0x0b)]
        );
        outputs.push(std::mem::take(&mut *outside.output.lock().unwrap()));
        machine.reset().unwrap();
    }
    assert!(outputs[0] == outputs[1], "the same after a reset");
    outputs.remove(0)
}

/// Runs until the machine tells of an event. A guest that does not get there fails the test after a long time.
fn drive(machine: &Machine, vcpu: &mut dyn Vcpu, outside: &Outside) {
    let (over, woken) = (Mutex::new(false), Condvar::new());
    let late = AtomicBool::new(false);
    let kicker = vcpu.kicker();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let guard = over.lock().unwrap();
            let patience = Duration::from_secs(60);
            let (_guard, timeout) = woken.wait_timeout_while(guard, patience, |over| !*over).unwrap();
            late.store(timeout.timed_out(), Ordering::SeqCst);
            kicker.kick(KickSource::Control);
        });
        while outside.events.lock().unwrap().is_empty() && !late.load(Ordering::SeqCst) {
            match vcpu.run().unwrap() {
                Exit::PortWrite { port, width, data } => {
                    for item in data.chunks(width.into()) {
                        machine.ports().write(port.into(), item);
                    }
                }
                Exit::Kicked => {}
                _ => break,
            }
        }
        *over.lock().unwrap() = true;
        woken.notify_one();
    });
    assert!(
        !outside.events.lock().unwrap().is_empty(),
        "the kernel did not reach its end"
    );
}

/// mov dx, COM1
const TO_SERIAL: &[u8] = &[0x66, 0xba, 0xf8, 0x03];
/// Prints from ESI to the zero byte: lodsb; test al, al; jz out; out dx, al; jmp back.
const PRINT_TEXT: &[u8] = &[0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8];
/// Prints ECX bytes from ESI: rep outsb.
const PRINT_BYTES: &[u8] = &[0xf3, 0x6e];
/// mov ecx, 8
const EIGHT: &[u8] = &[0xb9, 8, 0, 0, 0];
/// mov al, '|'; out dx, al
const BAR: &[u8] = &[0xb0, b'|', 0xee];
/// mov dx, 0xf4; mov al, 0x0b; out dx, al; cli; hlt
const END: &[u8] = &[0x66, 0xba, 0xf4, 0x00, 0xb0, 0x0b, 0xee, 0xfa, 0xf4];

/// Where both kernels are loaded and entered.
const BASE: u32 = 0x10_0000;
/// Where an ELF file has its code.
const CODE_AT: u64 = 0x1000;
/// Where it has its note, or its Multiboot header.
const HEADER_AT: u64 = 0x200;

/// A segment to be loaded: where to, what is in the file, how long it is in memory.
struct Segment<'a> {
    address: u64,
    contents: &'a [u8],
    memory: u64,
}

/// An ELF file of the 64-bit class with these segments, the first of which holds the entry, and `header` as a note if `is_note`.
fn elf_of(segments: &[Segment<'_>], header: &[u8], is_note: bool) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version 1
    for field in [segments[0].address, 64, 0] {
        file.extend(field.to_le_bytes());
    }
    file.extend([0; 4]);
    let entries = segments.len() as u16 + u16::from(is_note);
    for half in [64u16, 56, entries, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut entry = |kind: u32, offset: u64, address: u64, len: usize, memory: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(5u32.to_le_bytes());
        for field in [offset, address, address, len as u64, memory, 4] {
            file.extend(field.to_le_bytes());
        }
    };
    let mut offset = CODE_AT;
    for segment in segments {
        entry(1, offset, segment.address, segment.contents.len(), segment.memory);
        offset += segment.contents.len() as u64;
    }
    if is_note {
        entry(4, HEADER_AT, 0, header.len(), header.len() as u64);
    }
    file.resize(HEADER_AT as usize, 0);
    file.extend(header);
    file.resize(CODE_AT as usize, 0);
    for segment in segments {
        file.extend(segment.contents);
    }
    file
}

/// An ELF file with one segment to be loaded, and `header` as a note if `is_note`.
fn elf(code: &[u8], header: &[u8], is_note: bool) -> Vec<u8> {
    let segment = Segment {
        address: BASE.into(),
        contents: code,
        memory: code.len() as u64,
    };
    elf_of(&[segment], header, is_note)
}

#[test]
fn a_pvh_kernel_finds_its_command_line_its_initrd_and_the_tables() {
    let code = [
        TO_SERIAL,
        &[0x89, 0xde, 0xb9, 4, 0, 0, 0], // mov esi, ebx; mov ecx, 4
        PRINT_BYTES,                     // the magic number
        &[0x8b, 0x73, 0x18],             // mov esi, [ebx + 24]
        PRINT_TEXT,
        BAR,
        &[0x8b, 0x7b, 0x10, 0x8b, 0x37, 0x8b, 0x4f, 0x08], // mov edi, [ebx + 16]; mov esi, [edi]; mov ecx, [edi + 8]
        PRINT_BYTES,
        BAR,
        &[0x8b, 0x73, 0x20], // mov esi, [ebx + 32]
        EIGHT,
        PRINT_BYTES,
        END,
    ]
    .concat();
    // XEN_ELFNOTE_PHYS32_ENTRY
    let mut note: Vec<u8> = [4u32, 8, 18].iter().flat_map(|word| word.to_le_bytes()).collect();
    note.extend(b"Xen\0");
    note.extend(u64::from(BASE).to_le_bytes());
    let printed = run(elf(&code, &note, true));
    let expected = [
        &0x336e_c578u32.to_le_bytes()[..],
        COMMAND_LINE.as_bytes(),
        b"|",
        &initrd(),
        b"|RSD PTR ",
    ]
    .concat();
    assert!(printed == expected, "{:?}", String::from_utf8_lossy(&printed));
}

/// Code for Multiboot kernels: the command line, the module, the loader's name, if EAX holds the loader's number.
fn multiboot_code() -> Vec<u8> {
    let body = [
        TO_SERIAL,
        &[0x8b, 0x73, 0x10], // mov esi, [ebx + 16]
        PRINT_TEXT,
        BAR,
        // mov edi, [ebx + 24]; mov esi, [edi]; mov ecx, [edi + 4]; sub ecx, esi
        &[0x8b, 0x7b, 0x18, 0x8b, 0x37, 0x8b, 0x4f, 0x04, 0x29, 0xf1],
        PRINT_BYTES,
        BAR,
        &[0x8b, 0x73, 0x40], // mov esi, [ebx + 64]
        PRINT_TEXT,
    ]
    .concat();
    // cmp eax, 0x2badb002; jne to the end
    let check = [0x3d, 0x02, 0xb0, 0xad, 0x2b, 0x75, body.len() as u8];
    [&check[..], &body, END].concat()
}

fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    let sum = 0u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    [&[MAGIC, flags, sum], addresses]
        .concat()
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect()
}

fn multiboot_output() -> Vec<u8> {
    let line = format!("kernel {COMMAND_LINE}|");
    [line.as_bytes(), &initrd(), b"|ostler"].concat()
}

#[test]
fn a_multiboot_kernel_in_an_elf_file_finds_its_command_line_and_module() {
    let kernel = elf(&multiboot_code(), &multiboot_header(3, &[]), false);
    let printed = run(kernel);
    assert!(
        printed == multiboot_output(),
        "{:?}",
        String::from_utf8_lossy(&printed)
    );
}

#[test]
fn a_flat_multiboot_kernel_is_loaded_where_its_header_says() {
    // The header's address, start and end of what is loaded, end of the zeroes, entry.
    let entry = BASE + 32;
    let header = multiboot_header(1 << 16 | 3, &[BASE, BASE, 0, 0, entry]);
    let kernel = [header, multiboot_code()].concat();
    let printed = run(kernel);
    assert!(
        printed == multiboot_output(),
        "{:?}",
        String::from_utf8_lossy(&printed)
    );
}

/// Where the large kernel has its parts: apart from each other, and the last above 2 GiB.
const TABLES: u32 = 0x0100_0000;
const HEAP: u32 = 0xa000_0000;
/// The last part is in the file up to here, and zero from here to its end.
const HEAP_FILE: u32 = 64 << 10;
const HEAP_MEMORY: u32 = 8 << 20;

/// What [`print_sum`] prints of these bytes.
fn sum(bytes: &[u8]) -> [u8; 4] {
    let words = bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    words
        .fold(0u32, |sum, word| sum.rotate_left(1).wrapping_add(word))
        .to_le_bytes()
}

/// Code that adds up the words from `address` on, and prints the sum.
fn print_sum(address: u32, bytes: u32) -> Vec<u8> {
    [
        &[0xbe][..],
        &address.to_le_bytes(), // mov esi, address
        &[0xb9],
        &(bytes / 4).to_le_bytes(),                  // mov ecx, words
        &[0x31, 0xed],                               // xor ebp, ebp
        &[0xad, 0xd1, 0xc5, 0x01, 0xc5, 0xe2, 0xf9], // again: lodsd; rol ebp, 1; add ebp, eax; loop again
        &[0x89, 0xe8],                               // mov eax, ebp
        PRINT_WORD,
    ]
    .concat()
}

/// Prints EAX: out dx, al; shr eax, 8, four times.
const PRINT_WORD: &[u8] = &[
    0xee, 0xc1, 0xe8, 8, 0xee, 0xc1, 0xe8, 8, 0xee, 0xc1, 0xe8, 8, 0xee, 0xc1, 0xe8, 8,
];

/// Code that fills the words from `address` on with ones.
fn fill(address: u32, bytes: u32) -> Vec<u8> {
    [
        &[0xbf][..],
        &address.to_le_bytes(), // mov edi, address
        &[0xb9],
        &(bytes / 4).to_le_bytes(),      // mov ecx, words
        &[0x31, 0xc0, 0x48, 0xf3, 0xab], // xor eax, eax; dec eax; rep stosd
    ]
    .concat()
}

#[test]
fn a_large_multiboot_kernel_has_its_segments_its_zeroes_and_its_module() {
    let tables: Vec<u8> = (0..1u32 << 18)
        .flat_map(|i| i.wrapping_mul(0x9e37_79b1).to_le_bytes())
        .collect();
    let heap: Vec<u8> = (0..HEAP_FILE / 4).flat_map(|i| (!i).to_le_bytes()).collect();
    let code = [
        TO_SERIAL,
        &print_sum(TABLES, tables.len() as u32),
        &print_sum(HEAP, HEAP_FILE),
        &print_sum(HEAP + HEAP_FILE, HEAP_MEMORY - HEAP_FILE),
        // mov edi, [ebx + 24]; mov eax, [edi]
        &[0x8b, 0x7b, 0x18, 0x8b, 0x07],
        PRINT_WORD,
        // mov esi, [edi]; mov ecx, [edi + 4]; sub ecx, esi
        &[0x8b, 0x37, 0x8b, 0x4f, 0x04, 0x29, 0xf1],
        PRINT_BYTES,
        // The reset has to bring all of it back.
        &fill(TABLES, 4096),
        &fill(HEAP, HEAP_MEMORY),
        END,
    ]
    .concat();
    let segment = |address: u32, contents, memory: u32| Segment {
        address: address.into(),
        contents,
        memory: memory.into(),
    };
    let segments = [
        segment(BASE, &code, code.len() as u32),
        segment(HEAP, &heap, HEAP_MEMORY),
        segment(TABLES, &tables, tables.len() as u32),
    ];
    let printed = run_in(0xb000_0000, elf_of(&segments, &multiboot_header(3, &[]), false));
    let expected = [
        &sum(&tables)[..],
        &sum(&heap),
        &[0; 4],
        // The module follows the last byte of all.
        &(HEAP + HEAP_MEMORY).to_le_bytes(),
        &initrd(),
    ]
    .concat();
    assert!(
        printed == expected,
        "{:x?} and {} bytes",
        &printed[..printed.len().min(16)],
        printed.len()
    );
}
