//! The guests: image, script, expectation.

use std::sync::Arc;
use std::time::Duration;

use ostler_accel::IoapicPin;
use ostler_bus::{Doorbell, Msi, Space};
use ostler_memory::vm_memory::GuestMemoryBackend;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::layout::{BELL_FOR_ALL, BELL_FOR_ONE, BELL_PORT, COUNTED, EXTERNAL_COUNTED};
use crate::stage::Stage;
use crate::{End, Guest, Mode, Next, images};

/// A guest without a script.
const PLAIN: Guest = Guest {
    name: "",
    shows: "",
    cpus: 1,
    sleepers: &[],
    mode: Mode::Long,
    end: End::Exit,
    image: images::hello,
    prints: String::new,
    prepare: |_| Ok(()),
    step: |_, step| Err(format!("an unexpected step {step}")),
    check: |_| Ok(()),
};

/// Every tiny guest, simple ones first.
pub fn all() -> Vec<Guest> {
    vec![
        Guest {
            name: "hello",
            shows: "real mode, the serial port",
            mode: Mode::Real,
            image: images::hello,
            prints: || "hello from real mode\n".into(),
            ..PLAIN
        },
        Guest {
            name: "mode-switch",
            shows: "real mode to protected mode to 64-bit mode",
            mode: Mode::Real,
            image: images::mode_switch,
            prints: || "32, then 64 bits: EFER 0000000000000500\n".into(),
            ..PLAIN
        },
        Guest {
            name: "ports",
            shows: "port I/O of 1, 2 and 4 bytes and strings",
            image: images::port_io,
            prints: || {
                hex(&[0x1122_5577, u64::MAX << 16 | 0x5577, u64::MAX << 8 | 0x77])
                    + "string\n"
                    + &hex(&[0x0807_0605_0403_0201])
            },
            ..PLAIN
        },
        Guest {
            name: "mmio",
            shows: "device registers of 1, 2, 4 and 8 bytes",
            image: images::mmio,
            prints: || {
                hex(&[
                    0x8877_6655_4433_2211,
                    0xffee_ddcc_bbaa_0099,
                    0xffee_ddcc,
                    0xbbaa,
                    0xffff_ffff_ffff_ff99,
                    0xffff_ffff_ffee_ddcc,
                    3,
                ])
            },
            ..PLAIN
        },
        Guest {
            name: "doorbells",
            shows: "doorbells in memory and among the ports",
            image: images::doorbells,
            prepare: add_doorbells,
            check: check_doorbells,
            ..PLAIN
        },
        Guest {
            name: "exceptions",
            shows: "#UD, #DE, #PF and #GP through the interrupt table",
            image: images::exceptions,
            prints: || String::from("#UD\n#DE\n#PF ") + &hex(&[0x1_4000_0008, 2]) + "#GP " + &hex(&[0]),
            ..PLAIN
        },
        Guest {
            name: "triple-fault",
            shows: "a triple fault",
            end: End::Shutdown,
            image: images::triple_fault,
            ..PLAIN
        },
        Guest {
            name: "timer",
            shows: "HLT and the LAPIC timer",
            image: images::timer,
            prints: || hex(&[3, 0]),
            ..PLAIN
        },
        Guest {
            name: "x2apic",
            shows: "x2APIC mode, an interrupt to itself, the TSC deadline",
            image: images::x2apic,
            prints: || hex(&[0, 2]),
            ..PLAIN
        },
        Guest {
            name: "messages",
            shows: "message-signalled interrupts, sent at once and by events",
            image: images::messages,
            prints: || hex(&[3]),
            step: send_messages,
            ..PLAIN
        },
        Guest {
            name: "end-of-interrupt",
            shows: "the end of level-triggered interrupts",
            image: images::end_of_interrupt,
            prints: || hex(&[2]),
            step: raise_level,
            check: |stage| expect("ends of interrupts", &stage.log().ends, &vec![0x49; 2]),
            ..PLAIN
        },
        Guest {
            name: "external",
            shows: "interrupts of an 8259",
            image: images::external,
            prints: || hex(&[2, 3]),
            prepare: |stage| {
                stage.vm.set_external_interrupts(stage.pic.clone());
                Ok(())
            },
            step: raise_external,
            ..PLAIN
        },
        Guest {
            name: "smp",
            shows: "starting a second CPU",
            cpus: 2,
            image: images::smp,
            prints: || "cpu 0 sees cpu 1\n!".into(),
            ..PLAIN
        },
        Guest {
            name: "kick",
            shows: "bringing a busy CPU back",
            image: images::kick,
            step: kick_later,
            check: |stage| match stage.log().kicked {
                0 => Err("no kick arrived".into()),
                _ => Ok(()),
            },
            ..PLAIN
        },
        Guest {
            name: "dirty-log",
            shows: "the log of pages that the guest wrote",
            image: images::dirty,
            step: follow_dirty_log,
            ..PLAIN
        },
        Guest {
            name: "state",
            shows: "a CPU's state, saved and restored into a new virtual machine",
            image: images::state,
            prints: state_after_move,
            step: |_, _| Ok(Next::Move),
            ..PLAIN
        },
    ]
}

/// Tiny guests that need interrupts at the right moments only. QEMU's emulation of SVM has others, through no fault of the
/// accelerator that is tested: it repeats an interrupt that KVM injected.
pub fn strict() -> Vec<Guest> {
    vec![Guest {
        name: "masked",
        shows: "no interrupt while interrupts are off",
        image: images::masked,
        prints: || hex(&[0, EXTERNALS.into(), 1]),
        prepare: |stage| {
            stage.vm.set_external_interrupts(stage.pic.clone());
            Ok(())
        },
        step: raise_external_often,
        ..PLAIN
    }]
}

/// Tiny guests that need every instruction of the CPU model, from the accelerator or from its helper.
pub fn demanding() -> Vec<Guest> {
    vec![
        Guest {
            name: "hand-over",
            shows: "instructions that KVM may not emulate, and messages meanwhile",
            image: images::hand_over,
            prints: || {
                hex(&[
                    0,
                    MESSAGES.into(),
                    0,
                    0,
                    2,
                    0x1234_5678,
                    0x0102_0304_0506_0708,
                    !0x0102_0304_0506_0708,
                ])
            },
            step: send_one_after_another,
            ..PLAIN
        },
        Guest {
            name: "whole-state",
            shows: "x2APIC, deadline, requested interrupts, vectors, MSRs and a sleeping CPU, moved",
            cpus: 2,
            sleepers: &[1],
            image: images::whole_state,
            prints: || hex(&[0, 1, 1]),
            step: |_, _| Ok(Next::Move),
            ..PLAIN
        },
    ]
}

/// How many messages [`send_one_after_another`] sends.
const MESSAGES: u32 = 200;

/// Sends each message when the one before was counted, so that one that is lost ends the sequence.
fn send_one_after_another(stage: &Arc<Stage>, _step: u32) -> Result<Next, String> {
    let stage = stage.clone();
    std::thread::spawn(move || {
        for sent in 1..=MESSAGES {
            stage.vm.signal(message(0x41));
            while stage.read_word(COUNTED) != Ok(sent) {
                if stage.is_over() {
                    return;
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        if let Err(wrong) = stage.set_mailbox(1) {
            stage.end(Some(wrong));
        }
    });
    Ok(Next::Continue)
}

/// What the guests' `puthex` prints.
fn hex(values: &[u64]) -> String {
    values.iter().map(|value| format!("{value:016x}\n")).collect()
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, expected: &T) -> Result<(), String> {
    if seen == expected {
        Ok(())
    } else {
        Err(format!("{what}: {seen:x?} instead of {expected:x?}"))
    }
}

fn event() -> Result<EventFd, String> {
    EventFd::new(EFD_NONBLOCK).map_err(|e| e.to_string())
}

fn doorbell_list() -> [Doorbell; 3] {
    [
        Doorbell {
            space: Space::Memory,
            address: BELL_FOR_ONE,
            width: Some(4),
            value: Some(1),
        },
        Doorbell {
            space: Space::Memory,
            address: BELL_FOR_ALL,
            width: None,
            value: None,
        },
        Doorbell {
            space: Space::Port,
            address: BELL_PORT.into(),
            width: Some(2),
            value: None,
        },
    ]
}

fn add_doorbells(stage: &Arc<Stage>) -> Result<(), String> {
    let mut events = stage.events.lock().map_err(|e| e.to_string())?;
    for bell in doorbell_list() {
        let event = event()?;
        stage
            .vm
            .add(bell, &event)
            .map_err(|e| format!("adding {bell:?}: {e}"))?;
        events.push(event);
    }
    Ok(())
}

fn check_doorbells(stage: &Stage) -> Result<(), String> {
    let events = stage.events.lock().map_err(|e| e.to_string())?;
    let rung: Vec<u64> = events.iter().map(|event| event.read().unwrap_or(0)).collect();
    expect("rings of the three doorbells", &rung, &vec![3, 3, 2])?;
    expect(
        "stores that missed",
        &stage.log().missed_bells,
        &vec![(BELL_FOR_ONE, 2)],
    )?;
    for (bell, event) in doorbell_list().into_iter().zip(events.iter()) {
        stage
            .vm
            .remove(bell, event)
            .map_err(|e| format!("removing {bell:?}: {e}"))?;
    }
    Ok(())
}

fn message(vector: u32) -> Msi {
    Msi {
        address: 0xfee0_0000,
        data: vector,
    }
}

fn send_messages(stage: &Arc<Stage>, step: u32) -> Result<Next, String> {
    let text = |e: std::io::Error| e.to_string();
    if step == 1 {
        // To a CPU that does not exist, to no LAPIC at all, and then a good one.
        stage.vm.signal(Msi {
            address: 0xfee7_7000,
            data: 0x41,
        });
        stage.vm.signal(Msi {
            address: 0x1000,
            data: 0x41,
        });
        stage.vm.signal(message(0x41));
        return Ok(Next::Continue);
    }
    let mut events = stage.events.lock().map_err(|e| e.to_string())?;
    if events.is_empty() {
        events.push(event()?);
    }
    let vector = 0x40 + step;
    match stage.vm.connect(&events[0], Some(message(vector))) {
        Ok(()) => events[0].write(1).map_err(text)?,
        // An accelerator without this has the device's worker send the message.
        Err(e) if e.kind() == std::io::ErrorKind::Unsupported => stage.vm.signal(message(vector)),
        Err(e) => return Err(format!("connecting an event: {e}")),
    }
    Ok(Next::Continue)
}

fn raise_level(stage: &Arc<Stage>, _step: u32) -> Result<Next, String> {
    let msi = Msi {
        address: 0xfee0_0000,
        data: 0xc049,
    };
    let unused = IoapicPin {
        masked: true,
        ..Default::default()
    };
    let mut pins = [unused; 24];
    pins[9] = IoapicPin {
        masked: false,
        msi,
        ..unused
    };
    stage.vm.set_ioapic_pins(&pins).map_err(|e| e.to_string())?;
    stage.vm.signal(msi);
    Ok(Next::Continue)
}

/// Requests an interrupt at the 8259.
fn raise(stage: &Stage) {
    stage.pic.request();
    stage.vm.external_interrupt_raised();
}

/// How many interrupts [`raise_external_often`] requests.
const EXTERNALS: u32 = 200;

/// Requests each interrupt when the one before was counted, at whatever moment that is for the guest.
fn raise_external_often(stage: &Arc<Stage>, _step: u32) -> Result<Next, String> {
    let stage = stage.clone();
    std::thread::spawn(move || {
        for sent in 1..=EXTERNALS {
            raise(&stage);
            while stage.read_word(EXTERNAL_COUNTED) != Ok(sent) {
                if stage.is_over() {
                    return;
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        if let Err(wrong) = stage.set_mailbox(1) {
            stage.end(Some(wrong));
        }
    });
    Ok(Next::Continue)
}

fn raise_external(stage: &Arc<Stage>, step: u32) -> Result<Next, String> {
    if step == 2 {
        // When the CPU most likely sleeps; if it does not yet, the guest sees no difference.
        let stage = stage.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            raise(&stage);
        });
    } else {
        raise(stage);
    }
    Ok(Next::Continue)
}

fn kick_later(stage: &Arc<Stage>, _step: u32) -> Result<Next, String> {
    let stage = stage.clone();
    std::thread::spawn(move || {
        while stage.log().kicked < 3 && !stage.is_over() {
            stage.kick_all();
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Err(wrong) = stage.set_mailbox(1) {
            stage.end(Some(wrong));
        }
    });
    Ok(Next::Continue)
}

fn follow_dirty_log(stage: &Arc<Stage>, step: u32) -> Result<Next, String> {
    let region = stage.ram.iter().next().ok_or("no RAM")?;
    let mapping = ostler_memory::vm_memory::GuestRegionMmap::get_mmap(region);
    let tracker = mapping.bitmap();
    let text = |e: ostler_accel::Error| e.to_string();
    match step {
        1 => {
            tracker.set_logging(true);
            stage.vm.set_dirty_log(true).map_err(text)?;
        }
        2 => {
            stage.vm.sync_dirty().map_err(text)?;
            let dirty = tracker.take_dirty();
            let is_dirty = |page: usize| dirty[page / 64] & 1 << (page % 64) != 0;
            let seen = [0x100, 0x103, 0x1ff, 0x150, 0x120].map(is_dirty);
            expect(
                "pages 100, 103, 1ff, 150, 120 dirty",
                &seen,
                &[true, true, true, false, false],
            )?;
        }
        _ => {
            stage.vm.sync_dirty().map_err(text)?;
            let seen = [0x120, 0x100].map(|page| tracker.is_dirty(page));
            expect(
                "pages 120, 100 dirty after the log was taken",
                &seen,
                &[true, false],
            )?;
            stage.vm.set_dirty_log(false).map_err(text)?;
            tracker.set_logging(false);
        }
    }
    Ok(Next::Continue)
}

/// The same computation as in the image.
fn state_after_move() -> String {
    let (mut x, mut sum) = (1u64, 0u64);
    let mut rounds = |sum: &mut u64| {
        for _ in 0..2000 {
            x = x
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *sum = sum.rotate_left(1) ^ x;
        }
    };
    rounds(&mut sum);
    sum = sum.wrapping_add(1);
    rounds(&mut sum);
    let fixed = 0x0808 + 0x0909 + 0x1010 + 0x1212 + 0x1313 + 0x1414 + 0x1515;
    hex(&[
        sum,
        fixed,
        0x1111_2222,
        0x3333_4444,
        0xab_cdef,
        2,
        0x12_3456,
        0x77_7000,
    ])
}
