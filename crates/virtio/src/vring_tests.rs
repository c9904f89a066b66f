use super::*;
use crate::testing::{Driver, INDIRECT, NEXT, WRITE, ram};
use proptest::prelude::*;

const BASE: u64 = 0x10000;
const TABLE: u64 = 0x4_0000;

fn setup(size: u16) -> (Driver, Vring, Chain) {
    let driver = Driver::new(ram(), BASE, size);
    let vring = driver.vring(true);
    let chain = Chain::new(driver.ram.clone());
    (driver, vring, chain)
}

/// What one offered head gives.
fn pop_one(prepare: impl FnOnce(&mut Driver)) -> Result<bool, GuestError> {
    let (mut driver, mut vring, mut chain) = setup(16);
    prepare(&mut driver);
    driver.offer(0);
    vring.pop(&mut chain)
}

#[test]
fn a_chain_is_split_into_what_is_read_and_what_is_written() {
    let (mut driver, mut vring, mut chain) = setup(16);
    driver.write(0x8_0000, b"hello, world");
    let head = driver.add(&[
        (0x8_0000, 5, false),
        (0x8_0000, 0, false),
        (0x8_0005, 7, false),
        (0x9_0000, 3, true),
        (0xa_0000, 4096, true),
    ]);
    assert!(vring.pop(&mut chain).unwrap());
    assert_eq!(
        (chain.head(), chain.readable_bytes(), chain.writable_bytes()),
        (head, 12, 4099)
    );
    assert_eq!((chain.readable().len(), chain.writable().len()), (2, 2));
    let mut text = [0; 7];
    assert_eq!(chain.read_at(3, &mut text), 7);
    assert_eq!(&text, b"lo, wor");
    assert_eq!(chain.read_at(10, &mut text), 2);
    assert_eq!(chain.read_at(12, &mut text), 0);
    assert_eq!(chain.write_at(1, b"abcd"), 4);
    assert_eq!(driver.read(0x9_0000, 3), [0, b'a', b'b']);
    assert_eq!(driver.read(0xa_0000, 2), *b"cd");
    assert_eq!(chain.write_at(4098, b"xyz"), 1);
    assert!(!vring.pop(&mut chain).unwrap());
}

#[test]
fn writes_reach_the_dirty_log() {
    let (mut driver, mut vring, mut chain) = setup(16);
    let region = vm_memory::GuestMemoryBackend::iter(&*driver.ram)
        .next()
        .unwrap()
        .get_mmap();
    driver.add(&[(0x8_0ff0, 0x20, true), (0xa_0000, 0x10, true)]);
    assert!(vring.pop(&mut chain).unwrap());
    region.bitmap().set_logging(true);
    chain.mark_written(0x21);
    assert!(
        region.bitmap().is_dirty(0x80) && region.bitmap().is_dirty(0x81) && region.bitmap().is_dirty(0xa0)
    );
    region.bitmap().set_logging(true);
    chain.write_at(0x11, b"x");
    assert!(
        !region.bitmap().is_dirty(0x80) && region.bitmap().is_dirty(0x81) && !region.bitmap().is_dirty(0xa0)
    );
}

#[test]
fn every_malformed_chain_is_told_apart() {
    let looped = |driver: &mut Driver| driver.descriptor(BASE, 0, 0x8_0000, 16, NEXT, 0);
    assert_eq!(pop_one(looped), Err(GuestError::ChainTooLong));
    let empty_loop = |driver: &mut Driver| driver.descriptor(BASE, 0, 0x8_0000, 0, NEXT, 0);
    assert_eq!(pop_one(empty_loop), Err(GuestError::ChainTooLong));
    let past = |driver: &mut Driver| driver.descriptor(BASE, 0, 0x8_0000, 16, NEXT, 16);
    assert_eq!(pop_one(past), Err(GuestError::DescriptorIndex(16)));
    let wraps = |driver: &mut Driver| driver.descriptor(BASE, 0, u64::MAX - 8, 16, 0, 0);
    assert_eq!(
        pop_one(wraps),
        Err(GuestError::BufferAddress {
            gpa: u64::MAX - 8,
            len: 16
        })
    );
    let leaves = |driver: &mut Driver| driver.descriptor(BASE, 0, 0x7f_fff8, 16, 0, 0);
    assert_eq!(
        pop_one(leaves),
        Err(GuestError::BufferAddress {
            gpa: 0x7f_fff8,
            len: 16
        })
    );
    let mmio = |driver: &mut Driver| driver.descriptor(BASE, 0, 0xfec0_0000, 16, WRITE, 0);
    assert_eq!(
        pop_one(mmio),
        Err(GuestError::BufferAddress {
            gpa: 0xfec0_0000,
            len: 16
        })
    );
    let huge = |driver: &mut Driver| driver.descriptor(BASE, 0, 0, u32::MAX, WRITE, 0);
    assert_eq!(
        pop_one(huge),
        Err(GuestError::BufferAddress {
            gpa: 0,
            len: u32::MAX
        })
    );
    let order = |driver: &mut Driver| {
        driver.descriptor(BASE, 0, 0x8_0000, 16, WRITE | NEXT, 1);
        driver.descriptor(BASE, 1, 0x8_0000, 16, 0, 0);
    };
    assert_eq!(pop_one(order), Err(GuestError::Order));
}

#[test]
fn every_malformed_indirect_table_is_told_apart() {
    let valid = |driver: &mut Driver| {
        driver.descriptor(BASE, 0, TABLE, 48, INDIRECT, 0);
        for i in 0..3 {
            driver.descriptor(TABLE, i, 0x8_0000, 16, if i < 2 { NEXT } else { WRITE }, i + 1);
        }
    };
    assert_eq!(pop_one(valid), Ok(true));
    for len in [0, 8, 17] {
        let odd = |driver: &mut Driver| driver.descriptor(BASE, 0, TABLE, len, INDIRECT, 0);
        assert_eq!(pop_one(odd), Err(GuestError::IndirectLength(len)));
    }
    let nested = |driver: &mut Driver| {
        driver.descriptor(BASE, 0, TABLE, 16, INDIRECT, 0);
        driver.descriptor(TABLE, 0, TABLE, 16, INDIRECT, 0);
    };
    assert_eq!(pop_one(nested), Err(GuestError::IndirectNested));
    let continued = |driver: &mut Driver| driver.descriptor(BASE, 0, TABLE, 16, INDIRECT | NEXT, 1);
    assert_eq!(pop_one(continued), Err(GuestError::IndirectNested));
    let past = |driver: &mut Driver| {
        driver.descriptor(BASE, 0, TABLE, 32, INDIRECT, 0);
        driver.descriptor(TABLE, 0, 0x8_0000, 16, NEXT, 2);
    };
    assert_eq!(pop_one(past), Err(GuestError::DescriptorIndex(2)));
    let outside = |driver: &mut Driver| driver.descriptor(BASE, 0, 0xf000_0000, 16, INDIRECT, 0);
    assert_eq!(pop_one(outside), Err(GuestError::RingAddress(0xf000_0000)));
    let wrapping = |driver: &mut Driver| driver.descriptor(BASE, 0, u64::MAX - 7, 32, INDIRECT, 0);
    assert!(matches!(pop_one(wrapping), Err(GuestError::RingAddress(_))));
}

#[test]
fn a_chain_of_4_gib_is_refused_without_having_so_much_ram() {
    // The same 4 MiB, over and over.
    let many = |driver: &mut Driver| {
        driver.descriptor(BASE, 0, TABLE, 16 * 1024, INDIRECT, 0);
        for i in 0..1024 {
            driver.descriptor(TABLE, i, 0, 4 << 20, NEXT, (i + 1) % 1024);
        }
    };
    assert_eq!(pop_one(many), Err(GuestError::ChainTooLarge));
}

#[test]
fn bad_sizes_and_addresses_are_refused_at_set_up() {
    let good = Driver::new(ram(), BASE, 16);
    let make = |change: fn(&mut QueueSettings)| {
        let mut settings = good.settings;
        change(&mut settings);
        Vring::new(good.ram.clone(), settings, 256, false).map(|_| ())
    };
    assert_eq!(make(|_| ()), Ok(()));
    assert_eq!(make(|s| s.size = 0), Err(GuestError::QueueSize(0)));
    assert_eq!(make(|s| s.size = 24), Err(GuestError::QueueSize(24)));
    assert_eq!(make(|s| s.size = 512), Err(GuestError::QueueSize(512)));
    assert!(make(|s| s.descriptors += 8).is_err());
    assert!(make(|s| s.available += 1).is_err());
    assert!(make(|s| s.used += 2).is_err());
    assert!(make(|s| s.descriptors = 0x80_0000 - 16).is_err());
    assert!(make(|s| s.available = 0xfee0_0000).is_err());
    assert!(make(|s| s.used = u64::MAX - 3).is_err());
}

#[test]
fn the_available_index_cannot_run_away() {
    let (mut driver, mut vring, mut chain) = setup(16);
    driver.set_available_index(17);
    assert_eq!(
        vring.pop(&mut chain),
        Err(GuestError::AvailableIndex { next: 0, index: 17 })
    );

    let (_, mut vring) = (driver = Driver::new(ram(), BASE, 4), driver.vring(true));
    let mut chain = Chain::new(driver.ram.clone());
    driver.descriptor(BASE, 0, 0x8_0000, 16, 0, 0);
    for _ in 0..4 {
        driver.offer(0);
        assert_eq!(vring.pop(&mut chain), Ok(true));
    }
    driver.offer(0);
    assert_eq!(
        vring.pop(&mut chain),
        Err(GuestError::TooManyChains),
        "one chain offered again and again"
    );
}

#[test]
fn used_elements_appear_in_one_step() {
    let (mut driver, mut vring, mut chain) = setup(16);
    for _ in 0..3 {
        driver.add(&[(0x8_0000, 16, true)]);
        assert!(vring.pop(&mut chain).unwrap());
        vring.push_used(chain.head(), 7).unwrap();
    }
    assert_eq!(driver.used(), None);
    vring.undo_used(1);
    vring.publish().unwrap();
    assert_eq!(
        [driver.used(), driver.used(), driver.used()],
        [Some((0, 7)), Some((1, 7)), None]
    );
}

#[test]
fn an_interrupt_is_wanted_when_the_used_index_passes_the_event() {
    let (mut driver, mut vring, mut chain) = setup(16);
    let mut use_some = |driver: &mut Driver, count| {
        for _ in 0..count {
            driver.add(&[(0x8_0000, 16, true)]);
            assert!(vring.pop(&mut chain).unwrap());
            vring.push_used(chain.head(), 0).unwrap();
        }
        vring.publish().unwrap()
    };
    assert!(use_some(&mut driver, 1), "event 0 was passed");
    assert!(!use_some(&mut driver, 1));
    driver.set_used_event(4);
    assert!(!use_some(&mut driver, 2));
    assert!(use_some(&mut driver, 5), "index 4 is among 4 to 8");
    assert!(!use_some(&mut driver, 0), "nothing new");
}

#[test]
fn without_an_event_index_the_flag_decides() {
    let mut driver = Driver::new(ram(), BASE, 16);
    let (mut vring, mut chain) = (driver.vring(false), Chain::new(driver.ram.clone()));
    for (flag, wanted) in [(0u16, true), (1, false)] {
        driver.write(driver.settings.available, &flag.to_le_bytes());
        driver.add(&[(0x8_0000, 16, true)]);
        assert!(vring.pop(&mut chain).unwrap());
        vring.push_used(chain.head(), 0).unwrap();
        assert_eq!(vring.publish().unwrap(), wanted);
    }
    vring.disable_kicks().unwrap();
    assert_eq!(driver.read(driver.settings.used, 2), [1, 0]);
    driver.add(&[(0x8_0000, 16, true)]);
    assert!(vring.enable_kicks().unwrap(), "came while kicks were off");
    assert_eq!(driver.read(driver.settings.used, 2), [0, 0]);
}

#[test]
fn indices_wrap() {
    let (mut driver, mut vring, mut chain) = setup(4);
    for round in 0..70_000u32 {
        let head = driver.add(&[(0x8_0000, 16, true)]);
        assert!(vring.pop(&mut chain).unwrap());
        vring.push_used(chain.head(), round).unwrap();
        vring.publish().unwrap();
        assert_eq!(driver.used(), Some((head, round)));
    }
}

proptest! {
    /// Rings and tables full of noise: every chain ends in a checked chain or an error, in bounded time.
    #[test]
    fn noise_is_survived(noise in proptest::collection::vec(any::<u64>(), 256), small in any::<bool>()) {
        let (driver, mut vring, mut chain) = setup(16);
        for (i, word) in noise.iter().enumerate() {
            // Small numbers make indices and addresses that are often valid.
            let word = if small { word & 0x0007_0007_0000_fff0 } else { *word };
            driver.write(BASE + 8 * i as u64, &word.to_le_bytes());
        }
        for head in 0..16u16 {
            driver.write(driver.settings.available + 4 + 2 * u64::from(head), &head.to_le_bytes());
        }
        driver.set_available_index(16);
        for _ in 0..16 {
            if vring.pop(&mut chain) != Ok(true) {
                continue;
            }
            let total: usize = chain.writable_segments().iter().map(|segment| segment.len as usize).sum();
            prop_assert_eq!(total, chain.writable_bytes());
            prop_assert!(chain.readable().len() + chain.writable().len() <= MAX_SEGMENTS);
        }
    }
}
