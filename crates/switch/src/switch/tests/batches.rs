//! A batch is the same as its frames one by one, whatever is remembered from one frame to the next.

use super::*;

/// Frames of few stations, most like the one before, in any VLAN and to anybody; some of them of no shape.
fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let station = || prop_oneof![8 => (1u64..6).prop_map(mac), 1 => Just(ALL), 1 => Just(GROUP)];
    let tags = prop_oneof![
        4 => Just(vec![]),
        3 => (0u16..4).prop_map(|vlan| vec![c_tag(vlan)]),
        1 => (0u16..4, 0u16..4).prop_map(|(outer, inner)| vec![c_tag(outer), c_tag(inner)]),
        1 => Just(vec![[0x88, 0xa8, 0, 1]]),
    ];
    let frame = (station(), station(), tags, 0usize..3).prop_map(|(to, from, tags, spoilt)| {
        let mut frame = frame(to, from, &tags);
        match spoilt {
            0 => frame.resize(2000, 9),
            _ => frame.truncate(frame.len() - spoilt),
        }
        frame
    });
    prop::collection::vec((frame, 1usize..5), 1..12).prop_map(|runs| {
        runs.into_iter()
            .flat_map(|(frame, times)| vec![frame; times])
            .collect()
    })
}

fn ports() -> Vec<PortConfig> {
    let (mut trunk, mut isolated, mut limited) = (
        VlanSet::empty(),
        PortConfig::access(v(1)),
        PortConfig::access(v(2)),
    );
    trunk.insert(v(1));
    trunk.insert(v(2));
    isolated.isolated = true;
    limited.mac_limit = Some(2);
    limited.drop_above_limit = true;
    let mut guarded = PortConfig::access(v(1));
    guarded.protection.mac = Some(mac(2));
    let mut slow = PortConfig::access(v(1));
    slow.egress_rate = Some(Rate {
        per_second: 1000,
        burst: 500,
    });
    vec![
        PortConfig::trunk(trunk.clone(), Some(v(1))),
        PortConfig::trunk(trunk, None),
        isolated.clone(),
        isolated,
        limited,
        guarded,
        slow,
    ]
}

proptest! {
    #[test]
    fn a_batch_is_its_frames_one_by_one(
        batches in prop::collection::vec((0usize..7, frames()), 1..8),
        full in prop::option::of(0usize..7),
        fixed in prop::option::of(0usize..4),
    ) {
        let (mut whole, mut single) = (Bench::new(ports()), Bench::new(ports()));
        for bench in [&mut whole, &mut single] {
            bench.full = full;
            if let Some(port) = fixed {
                bench.switch.set_static(v(1), mac(3), at(port)).unwrap();
            }
        }
        for (port, frames) in batches {
            let together = whole.batch(port, frames.clone());
            let mut apart = Vec::new();
            for frame in frames {
                apart.extend(single.receive(port, frame));
            }
            prop_assert_eq!(together, apart);
            for place in 0..7 {
                prop_assert_eq!(whole.switch.counters(at(place)), single.switch.counters(at(place)));
            }
            let stations = |bench: &Bench| {
                let mut all: Vec<_> = bench.switch.stations().collect();
                all.sort_by_key(|station| (station.vlan.get(), station.mac.as_u64()));
                all
            };
            prop_assert_eq!(stations(&whole), stations(&single));
        }
    }
}
