//! Nothing on the path of a frame allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use ostler_switch::{
    Mac, Output, PortConfig, PortIndex, Protection, Rate, SnoopConfig, Switch, SwitchConfig, TagAction, Time,
    VlanId,
};

thread_local! {
    /// Of this thread only: the test harness has one of its own, which allocates when it likes.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn allocations() -> u64 {
    ALLOCATIONS.get()
}

struct Counting;

// SAFETY: all calls are passed to the system's allocator as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and the block is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Count(u64);

impl Output for Count {
    fn send(&mut self, _: PortIndex, _: usize, _: TagAction) -> bool {
        self.0 += 1;
        true
    }

    fn originate(&mut self, _: PortIndex, _: &[u8]) -> bool {
        true
    }
}

#[test]
fn frames_are_forwarded_without_allocation() {
    let mut config = SwitchConfig::new(Mac([2, 0, 0, 0, 0, 1]));
    config.fdb_entries = 1000;
    config.snooping = Some(SnoopConfig {
        querier: true,
        ..SnoopConfig::default()
    });
    let mut switch = Switch::new(config, [1, 2], Time::default()).unwrap();
    let mut out = Count(0);
    for n in 0..8 {
        let mut port = match n % 2 {
            0 => PortConfig::access(VlanId::DEFAULT),
            _ => PortConfig::trunk("1-4094".parse().unwrap(), None),
        };
        port.storm.broadcast = Some(Rate {
            per_second: 1000,
            burst: 1000,
        });
        port.egress_rate = Some(Rate {
            per_second: 1_000_000,
            burst: 1_000_000,
        });
        port.protection = Protection {
            dhcp_client_only: true,
            ra_guard: true,
            ..Protection::default()
        };
        let port = switch.add_port(port).unwrap();
        switch.set_link(port, true, Time::default(), &mut out).unwrap();
    }
    let port = PortIndex::new(0).unwrap();
    let mut frame = [0; 64];
    // The first questions about groups make room for what is known of each VLAN.
    switch.poll(Time::from_secs(2), &mut out);
    switch.poll(Time::from_secs(20), &mut out);
    let start = Time::from_secs(20).as_nanos();
    let before = allocations();
    drop(black_box(Box::new(7)));
    assert_eq!(allocations() - before, 1, "an allocation is counted");
    let before = allocations();
    for n in 0..100_000u64 {
        let to = if n % 3 == 0 {
            [0xff; 6]
        } else {
            Mac::from_u64(0x0200_0000_0000 + n / 2).0
        };
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&Mac::from_u64(0x0200_0000_0000 + n % 5000).0);
        frame[12] = 8;
        frame[14] = 0x45;
        frame[17] = 50;
        // Every seventh is for a group that nobody wants, which goes nowhere once the first question has been answered.
        if n % 7 == 0 {
            frame[..6].copy_from_slice(&[1, 0, 0x5e, 1, 1, 1]);
            frame[30..34].copy_from_slice(&[239, 1, 1, 1]);
        } else {
            frame[30..34].fill(0);
        }
        switch.receive(port, &frame, Time::from_nanos(start + n * 100_000), &mut out);
        if n % 1000 == 0 {
            switch.poll(Time::from_nanos(start + n * 100_000), &mut out);
        }
    }
    assert_eq!(allocations() - before, 0);
    assert!(out.0 > 0 && switch.fdb().evictions() > 0);
    assert!(
        switch
            .counters(port)
            .is_some_and(|counters| counters.forwarded > 0 && counters.balance())
    );
}
