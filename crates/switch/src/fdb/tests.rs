use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn fdb(capacity: usize) -> Fdb {
    Fdb::new(capacity, [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210], 300)
}

fn port(place: usize) -> PortIndex {
    PortIndex::new(place).unwrap()
}

fn mac(number: u64) -> Mac {
    Mac::from_u64(0x5254_0000_0000 + number)
}

fn vlan(number: u16) -> VlanId {
    VlanId::new(number).unwrap()
}

const V1: VlanId = VlanId::DEFAULT;

impl Fdb {
    fn learn(&mut self, vlan: VlanId, mac: Mac, port: PortIndex, now: u32) -> Learned {
        self.learn_at(self.spot(vlan, mac), port, now)
    }
}

/// 802.1D-2004, 7.8 and 7.9.2: learned, heard again, forgotten after the ageing time.
#[test]
fn a_station_is_learned_and_ages() {
    let mut fdb = fdb(64);
    assert_eq!(fdb.learn(V1, mac(1), port(3), 10), Learned::New);
    assert_eq!(fdb.lookup(V1, mac(1), 10), Some(port(3)));
    assert_eq!(fdb.lookup(vlan(2), mac(1), 10), None);
    assert_eq!(fdb.learn(V1, mac(1), port(3), 200), Learned::Known);
    assert_eq!(fdb.lookup(V1, mac(1), 499), Some(port(3)));
    assert_eq!(fdb.lookup(V1, mac(1), 500), None);
    assert_eq!(
        fdb.learn(V1, mac(1), port(4), 500),
        Learned::New,
        "what has aged does not move"
    );
    fdb.age(1000, usize::MAX);
    assert_eq!(fdb.ports[4].list.len(), 0);
    assert_eq!(fdb.free.len(), 64);
}

#[test]
fn a_shorter_ageing_time_counts_at_once() {
    let mut fdb = fdb(64);
    fdb.learn(V1, mac(1), port(3), 10);
    fdb.set_ageing(15);
    assert_eq!(fdb.lookup(V1, mac(1), 24), Some(port(3)));
    assert_eq!(fdb.lookup(V1, mac(1), 25), None);
}

#[test]
fn a_station_moves() {
    let mut fdb = fdb(64);
    fdb.learn(V1, mac(1), port(3), 0);
    assert_eq!(fdb.learn(V1, mac(1), port(5), 1), Learned::Moved(port(3)));
    assert_eq!(fdb.lookup(V1, mac(1), 1), Some(port(5)));
    assert_eq!((fdb.ports[3].list.len(), fdb.ports[5].list.len()), (0, 1));
}

/// 802.1D-2004, 7.9.1: static entries neither age nor change by learning, nor are they flushed.
#[test]
fn static_entries_beat_learned_ones() {
    let mut fdb = fdb(64);
    fdb.learn(V1, mac(1), port(3), 0);
    fdb.set_static(V1, mac(1), port(7)).unwrap();
    assert_eq!(
        fdb.learn(V1, mac(1), port(3), 1),
        Learned::StaticElsewhere(port(7))
    );
    assert_eq!(fdb.learn(V1, mac(1), port(7), 1), Learned::Known);
    fdb.flush();
    fdb.flush_vlan(V1);
    assert_eq!(fdb.lookup(V1, mac(1), 1_000_000), Some(port(7)));
    fdb.forget(V1, mac(1)).unwrap();
    assert_eq!(fdb.lookup(V1, mac(1), 1), None);
    assert_eq!(
        fdb.forget(V1, mac(1)),
        Err(Error::NoEntry {
            mac: mac(1),
            vlan: V1
        })
    );
    fdb.set_static(V1, mac(1), port(7)).unwrap();
    fdb.remove_static(port(7), |_| true);
    assert_eq!((fdb.fixed, fdb.free.len()), (0, 64));
}

#[test]
fn a_table_full_of_static_entries_takes_no_more() {
    let mut fdb = fdb(16);
    for n in 0..16 {
        fdb.set_static(V1, mac(n), port(0)).unwrap();
    }
    assert_eq!(fdb.set_static(V1, mac(99), port(0)), Err(Error::FdbFull(16)));
    assert_eq!(fdb.learn(V1, mac(99), port(1), 0), Learned::Full);
}

#[test]
fn a_port_has_no_more_stations_than_it_may() {
    let mut fdb = fdb(64);
    fdb.set_limit(port(1), Some(2));
    assert_eq!(fdb.learn(V1, mac(1), port(1), 0), Learned::New);
    assert_eq!(fdb.learn(V1, mac(2), port(1), 0), Learned::New);
    assert_eq!(fdb.learn(V1, mac(3), port(1), 0), Learned::AboveLimit);
    assert_eq!(fdb.learn(V1, mac(3), port(2), 0), Learned::New);
    assert_eq!(
        fdb.learn(V1, mac(4), port(1), 300),
        Learned::New,
        "aged stations make room"
    );
    fdb.learn(V1, mac(5), port(1), 300);
    fdb.flush_vlan(V1);
    assert_eq!(
        fdb.learn(V1, mac(6), port(1), 300),
        Learned::New,
        "stations of a flushed VLAN make room"
    );
}

/// A flood of addresses from one port does not push out the stations of the others.
#[test]
fn a_flood_evicts_its_own() {
    let mut fdb = fdb(256);
    for n in 0..100 {
        fdb.learn(V1, mac(n), port((n % 10) as usize), 0);
    }
    for n in 1000..101_000 {
        fdb.learn(V1, mac(n), port(20), 0);
    }
    for n in 0..100 {
        assert_eq!(fdb.lookup(V1, mac(n), 0), Some(port((n % 10) as usize)));
    }
    assert_eq!(fdb.lookup(V1, mac(100_999), 0), Some(port(20)));
    assert_eq!(fdb.evictions(), 100_000 - 156);
}

#[test]
fn flushes_forget_what_they_should_only() {
    let mut fdb = fdb(64);
    for n in 0..20 {
        fdb.learn(vlan(1 + (n % 2) as u16), mac(n), port((n / 2 % 2) as usize), 0);
    }
    fdb.flush_port(port(0));
    let left = |fdb: &Fdb, want: fn(u64) -> bool| {
        (0..20).all(|n| fdb.lookup(vlan(1 + (n % 2) as u16), mac(n), 0).is_some() == want(n))
    };
    assert!(left(&fdb, |n| n / 2 % 2 == 1));
    fdb.flush_vlan(vlan(2));
    assert!(left(&fdb, |n| n / 2 % 2 == 1 && n % 2 == 0));
    for n in 0..20 {
        fdb.learn(vlan(1 + (n % 2) as u16), mac(n), port((n / 2 % 2) as usize), 0);
    }
    assert!(left(&fdb, |_| true));
}

#[test]
fn an_entry_takes_at_most_64_bytes() {
    for capacity in [16, 1000, 16_384, 50_000, 65_537, crate::MAX_FDB] {
        let bytes = fdb(capacity).bytes_per_entry();
        assert!(bytes <= 64, "{capacity}: {bytes}");
    }
}

/// How many places of the index are looked at until an entry is found: the cost of a lookup without a clock.
#[test]
fn lookups_look_at_few_places_however_many_stations_there_are() {
    let mut table = fdb(65_536);
    for n in 0..50_000 {
        table.learn(vlan(1 + (n % 4000) as u16), mac(n), port((n % 1000) as usize), 0);
    }
    let looked_at = std::cell::Cell::new(0u64);
    for n in 0..50_000 {
        let key = pack(vlan(1 + (n % 4000) as u16), mac(n));
        let found = table.index.find(table.key.hash(key), |at| {
            looked_at.set(looked_at.get() + 1);
            table.entries[at as usize].key == key
        });
        assert!(found.is_some());
    }
    assert!(looked_at.get() < 50_100, "entries looked at: {}", looked_at.get());
    assert!(
        table.index.longest_run() < 64,
        "longest run: {}",
        table.index.longest_run()
    );
}

#[derive(Clone, Debug)]
enum Step {
    Learn(u16, u64, usize),
    Static(u16, u64, usize),
    Forget(u16, u64),
    FlushPort(usize),
    FlushVlan(u16),
    Wait(u32),
    Age(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (v, m, p) = (1..4u16, 0..24u64, 0..4usize);
    prop_oneof![
        8 => (v.clone(), m.clone(), p.clone()).prop_map(|(v, m, p)| Step::Learn(v, m, p)),
        1 => (v.clone(), m.clone(), p.clone()).prop_map(|(v, m, p)| Step::Static(v, m, p)),
        1 => (v.clone(), m).prop_map(|(v, m)| Step::Forget(v, m)),
        1 => p.prop_map(Step::FlushPort),
        1 => v.prop_map(Step::FlushVlan),
        1 => (1..200u32).prop_map(Step::Wait),
        1 => (0..5usize).prop_map(Step::Age),
    ]
}

proptest! {
    /// Against a map that knows no limits: with room for all, both know the same at any time.
    #[test]
    fn it_is_a_map(steps in prop::collection::vec(step(), 1..300)) {
        let mut fdb = fdb(128);
        let mut model: HashMap<(u16, u64), (usize, u32, bool)> = HashMap::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Learn(v, m, p) => {
                    fdb.learn(vlan(v), mac(m), port(p), now);
                    let entry = model.entry((v, m)).or_insert((p, now, false));
                    if !entry.2 {
                        *entry = (p, now, false);
                    }
                }
                Step::Static(v, m, p) => {
                    fdb.set_static(vlan(v), mac(m), port(p)).unwrap();
                    model.insert((v, m), (p, now, true));
                }
                Step::Forget(v, m) => {
                    let _ = fdb.forget(vlan(v), mac(m));
                    model.remove(&(v, m));
                }
                Step::FlushPort(p) => {
                    fdb.flush_port(port(p));
                    model.retain(|_, entry| entry.2 || entry.0 != p);
                }
                Step::FlushVlan(v) => {
                    fdb.flush_vlan(vlan(v));
                    model.retain(|key, entry| entry.2 || key.0 != v);
                }
                Step::Wait(seconds) => now += seconds,
                Step::Age(most) => fdb.age(now, most),
            }
            model.retain(|_, entry| entry.2 || now - entry.1 < 300);
            for v in 1..4 {
                for m in 0..24 {
                    let want = model.get(&(v, m)).map(|entry| port(entry.0));
                    prop_assert_eq!(fdb.lookup(vlan(v), mac(m), now), want);
                }
            }
            prop_assert_eq!(fdb.stations(now).count(), model.len());
            let held = fdb.free.len() + fdb.stale.len() + fdb.fixed as u32;
            prop_assert_eq!(held + fdb.ports.iter().map(|p| p.list.len()).sum::<u32>(), 128);
        }
    }

    /// A small table under pressure keeps its books, and finds whom it heard last.
    #[test]
    fn a_full_table_keeps_its_books(steps in prop::collection::vec((0..200u64, 0..5usize), 1..400)) {
        let mut fdb = fdb(16);
        for (m, p) in steps {
            fdb.learn(V1, mac(m), port(p), 0);
            prop_assert_eq!(fdb.lookup(V1, mac(m), 0), Some(port(p)));
            prop_assert_eq!(fdb.free.len() + fdb.ports.iter().map(|p| p.list.len()).sum::<u32>(), 16);
        }
    }
}
