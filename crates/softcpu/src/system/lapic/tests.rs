//! The chip against the rules of SDM vol. 3, chapter 11.

use super::registers::{Event, Lapic};
use super::route::{Destination, Message, delivery, matches};
use super::shared::{Addressing, LapicShared};
use super::{BASE_X2APIC, register};

/// A LAPIC that software has turned on.
fn enabled() -> Lapic {
    let mut lapic = Lapic::new(3, 2_000_000);
    lapic.write(register::SVR, 0x1ff, 0);
    lapic
}

fn x2apic() -> Lapic {
    let mut lapic = enabled();
    lapic.set_base(lapic.base() | BASE_X2APIC);
    lapic
}

/// Posts vectors from outside and takes them over.
fn post(lapic: &mut Lapic, vectors: &[(u8, bool)]) {
    let shared = LapicShared::new(3);
    for &(vector, level) in vectors {
        shared.post(vector, level);
    }
    lapic.accept(&shared.take().expect("something was posted"));
    assert!(shared.take().is_none(), "taken once");
}

#[test]
fn the_highest_class_goes_first_and_blocks_its_own_class() {
    let mut lapic = enabled();
    post(&mut lapic, &[(0x31, false), (0x52, false), (0x55, false)]);
    assert_eq!(lapic.acknowledge(), Some(0x55));
    assert_eq!(lapic.acknowledge(), None, "0x52 is of the class in service");
    assert_eq!(lapic.read(register::PPR, 0), 0x50);
    assert_eq!(
        lapic.write(register::EOI, 0, 0),
        Event::Ended {
            vector: 0x55,
            level: false
        }
    );
    assert_eq!(lapic.acknowledge(), Some(0x52));
    post(&mut lapic, &[(0x61, false)]);
    assert_eq!(lapic.acknowledge(), Some(0x61), "a higher class nests");
    assert_eq!(
        lapic.write(register::EOI, 0, 0),
        Event::Ended {
            vector: 0x61,
            level: false
        }
    );
    assert_eq!(
        lapic.write(register::EOI, 0, 0),
        Event::Ended {
            vector: 0x52,
            level: false
        }
    );
    assert_eq!(lapic.acknowledge(), Some(0x31));
    assert_eq!(
        lapic.write(register::EOI, 0, 0),
        Event::Ended {
            vector: 0x31,
            level: false
        }
    );
    assert_eq!(
        lapic.write(register::EOI, 0, 0),
        Event::None,
        "nothing is in service"
    );
}

#[test]
fn the_task_priority_holds_back_classes_up_to_its_own() {
    let mut lapic = enabled();
    post(&mut lapic, &[(0x4f, false)]);
    for (tpr, expected) in [(0x40, None), (0x4f, None), (0x50, None), (0x3f, Some(0x4f))] {
        lapic.write(register::TPR, tpr, 0);
        assert_eq!(lapic.deliverable(), expected, "TPR {tpr:#x}");
        assert_eq!(lapic.read(register::PPR, 0), tpr as u32);
    }
}

#[test]
fn the_end_of_a_level_interrupt_is_told_apart() {
    let mut lapic = enabled();
    post(&mut lapic, &[(0x40, true)]);
    assert_eq!(lapic.read(register::TMR + 0x20, 0), 1);
    lapic.acknowledge();
    assert_eq!(
        lapic.write(register::EOI, 0, 0),
        Event::Ended {
            vector: 0x40,
            level: true
        }
    );
    post(&mut lapic, &[(0x40, false)]);
    assert_eq!(
        lapic.read(register::TMR + 0x20, 0),
        0,
        "the newest message decides"
    );
}

#[test]
fn a_lapic_that_software_turned_off_takes_nothing_and_masks_its_table() {
    let mut lapic = enabled();
    lapic.write(register::LVT_TIMER, 0x20, 0);
    post(&mut lapic, &[(0x40, false)]);
    lapic.write(register::SVR, 0xff, 0);
    assert_eq!(lapic.deliverable(), None);
    assert_eq!(lapic.read(register::LVT_TIMER, 0), 0x1_0020);
    lapic.write(register::LVT_TIMER, 0x21, 0);
    assert_eq!(lapic.read(register::LVT_TIMER, 0), 0x1_0021, "cannot be unmasked");
}

#[test]
fn the_timer_requests_its_vector_unless_it_is_masked() {
    for (entry, expected) in [(0x33, Some(0x33)), (0x1_0033, None)] {
        let mut lapic = enabled();
        lapic.write(register::DIVIDE, 0xb, 0);
        lapic.write(register::LVT_TIMER, entry, 0);
        lapic.write(register::INITIAL_COUNT, 100, 1000);
        assert_eq!(lapic.next_deadline(), Some(1200));
        lapic.check_timer(1199);
        assert_eq!(lapic.deliverable(), None);
        lapic.check_timer(1200);
        assert_eq!(lapic.deliverable(), expected);
    }
}

#[test]
fn a_tsc_deadline_counts_in_its_mode_only() {
    let mut lapic = enabled();
    lapic.set_tsc_deadline(5000, 0);
    assert_eq!(lapic.next_deadline(), None);
    lapic.write(register::LVT_TIMER, 0x4_0044, 0);
    lapic.set_tsc_deadline(5000, 1000);
    assert_eq!((lapic.next_deadline(), lapic.tsc_deadline()), (Some(4000), 5000));
    lapic.tsc_moved(2000);
    assert_eq!(lapic.next_deadline(), Some(3000));
    lapic.check_timer(3000);
    assert_eq!((lapic.deliverable(), lapic.tsc_deadline()), (Some(0x44), 0));
}

#[test]
fn errors_show_after_a_write_of_the_status() {
    let mut lapic = enabled();
    lapic.write(register::LVT_ERROR, 0x77, 0);
    lapic.write(register::ICR, 0x4_000f, 0);
    assert_eq!(lapic.read(register::ESR, 0), 0);
    assert_eq!(lapic.deliverable(), Some(0x77));
    lapic.write(register::ESR, 0, 0);
    assert_eq!(lapic.read(register::ESR, 0), 1 << 5, "illegal vector sent");
    lapic.read(0x40, 0);
    lapic.write(register::ESR, 0, 0);
    assert_eq!(lapic.read(register::ESR, 0), 1 << 7, "illegal register");
}

fn sent(lapic: &mut Lapic, icr: u64) -> Message {
    if !lapic.is_x2apic() {
        lapic.write(register::ICR_HIGH, icr >> 32, 0);
    }
    match lapic.write(
        register::ICR,
        if lapic.is_x2apic() { icr } else { icr & 0xffff_ffff },
        0,
    ) {
        Event::Send(message) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_register_names_destination_and_mode() {
    let cases = [
        (
            5u64 << 56 | 0x4041,
            Destination::Physical(5),
            delivery::FIXED,
            0x41,
        ),
        (0xff << 56 | 0x4041, Destination::All, delivery::FIXED, 0x41),
        (
            0x81 << 56 | 0x4841,
            Destination::Logical(0x81),
            delivery::FIXED,
            0x41,
        ),
        (
            0x81 << 56 | 0x4941,
            Destination::Logical(0x81),
            delivery::LOWEST,
            0x41,
        ),
        (0x8_4041, Destination::All, delivery::FIXED, 0x41),
        (0xc_4041, Destination::AllButSelf, delivery::FIXED, 0x41),
        (1 << 56 | 0x4400, Destination::Physical(1), delivery::NMI, 0),
        (1 << 56 | 0x4500, Destination::Physical(1), delivery::INIT, 0),
        (1 << 56 | 0x4608, Destination::Physical(1), delivery::STARTUP, 8),
    ];
    for (icr, destination, mode, vector) in cases {
        let expected = Message {
            destination,
            delivery: mode,
            vector,
            level: false,
            ipi: true,
        };
        assert_eq!(sent(&mut enabled(), icr), expected, "{icr:#x}");
    }
    let mut lapic = x2apic();
    let wide = sent(&mut lapic, 0x1234_5678 << 32 | 0x4041);
    assert_eq!(wide.destination, Destination::Physical(0x1234_5678));
    assert_eq!(lapic.icr(), 0x1234_5678 << 32 | 0x4041);
}

#[test]
fn an_init_deassert_is_sent_to_nobody() {
    assert_eq!(enabled().write(register::ICR, 0x8500, 0), Event::None);
}

#[test]
fn an_ipi_to_oneself_needs_no_bus() {
    let mut lapic = enabled();
    assert_eq!(lapic.write(register::ICR, 0x4_4055, 0), Event::None);
    assert_eq!(lapic.deliverable(), Some(0x55));
    let mut lapic = x2apic();
    assert_eq!(lapic.write(register::SELF_IPI, 0x66, 0), Event::None);
    assert_eq!(lapic.deliverable(), Some(0x66));
}

#[test]
fn x2apic_ids_are_derived() {
    let mut lapic = Lapic::new(0x23, 1_000_000);
    lapic.set_base(lapic.base() | BASE_X2APIC);
    assert_eq!(lapic.read(register::ID, 0), 0x23);
    assert_eq!(lapic.read(register::LDR, 0), 2 << 16 | 1 << 3);
    lapic.write(register::LDR, 0, 0);
    assert_eq!(lapic.read(register::LDR, 0), 2 << 16 | 1 << 3, "read-only");
    assert_eq!(lapic.page(), None);
}

#[test]
fn destinations_match_as_the_manual_says() {
    let flat = Addressing {
        x2apic: false,
        xapic_id: 3,
        ldr: 4 << 24,
        dfr: u32::MAX,
        tpr: 0,
        enabled: true,
    };
    let cluster = Addressing {
        ldr: 0x24 << 24,
        dfr: 0x0fff_ffff,
        ..flat
    };
    let wide = Addressing {
        x2apic: true,
        ldr: 2 << 16 | 1 << 3,
        ..flat
    };
    let cases = [
        (&flat, 3, Destination::Physical(3), true),
        (&flat, 3, Destination::Physical(2), false),
        (&flat, 3, Destination::Physical(0xff), true),
        (&flat, 3, Destination::Logical(0x0c), true),
        (&flat, 3, Destination::Logical(0x0b), false),
        (&cluster, 3, Destination::Logical(0x24), true),
        (&cluster, 3, Destination::Logical(0x28), false),
        (&cluster, 3, Destination::Logical(0x14), false),
        (&cluster, 3, Destination::Logical(0xf4), true),
        (&wide, 0x23, Destination::Physical(0x23), true),
        (&wide, 0x23, Destination::Physical(0xff), false),
        (&wide, 0x23, Destination::Physical(u32::MAX), true),
        (&wide, 0x23, Destination::Logical(2 << 16 | 0xc), true),
        (&wide, 0x23, Destination::Logical(3 << 16 | 0xc), false),
        (&wide, 0x23, Destination::Logical(2 << 16 | 0x4), false),
        (&wide, 0x23, Destination::AllButSelf, true),
    ];
    for (addressing, id, destination, expected) in cases {
        assert_eq!(
            matches(addressing, id, destination, Some(0)),
            expected,
            "{addressing:?} {destination:?}"
        );
    }
    assert!(!matches(&wide, 0x23, Destination::AllButSelf, Some(0x23)));
    assert!(matches(&wide, 0x23, Destination::Myself, Some(0x23)));
}

#[test]
fn saved_registers_make_the_same_chip_again() {
    let mut lapic = enabled();
    lapic.write(register::LVT_TIMER, 0x2_0033, 0);
    lapic.write(register::LVT_LINT0, 0x8700, 0);
    lapic.write(register::DIVIDE, 0xb, 0);
    lapic.write(register::INITIAL_COUNT, 1000, 0);
    lapic.write(register::TPR, 0x20, 0);
    lapic.write(register::LDR, 0x0800_0000, 0);
    post(&mut lapic, &[(0x91, true), (0x45, false)]);
    lapic.acknowledge();
    let saved = lapic.save(1000);
    let mut copy = Lapic::new(3, 2_000_000);
    copy.restore(&saved, 51_000, 0);
    assert_eq!(copy.save(51_000), saved);
    assert_eq!(copy.next_deadline(), Some(52_000), "500 ticks of 1 ns were left");
    assert_eq!(
        copy.write(register::EOI, 0, 0),
        Event::Ended {
            vector: 0x91,
            level: true
        }
    );
    assert_eq!(copy.acknowledge(), Some(0x45));
}

proptest::proptest! {
    /// Whatever the guest writes, and wherever: no panic, and a vector below 16 is never delivered.
    #[test]
    fn no_write_breaks_it(writes in proptest::collection::vec((0u32..0x40, proptest::prelude::any::<u64>(), proptest::prelude::any::<bool>()), 0..64)) {
        let mut lapic = enabled();
        for (n, (offset, value, wide)) in writes.into_iter().enumerate() {
            if wide != lapic.is_x2apic() && n % 7 == 0 {
                lapic.set_base(lapic.base() ^ BASE_X2APIC);
            }
            lapic.write(offset << 4, value, n as u64 * 1000);
            lapic.read(offset << 4, n as u64 * 1000 + 1);
            lapic.check_timer(n as u64 * 1000 + 2);
            if let Some(vector) = lapic.acknowledge() {
                proptest::prop_assert!(vector >= 16);
            }
        }
    }
}
