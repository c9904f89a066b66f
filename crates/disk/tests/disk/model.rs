//! Random requests against a plain array, on both engines, through the page cache and around it.

use crate::common::{finish, folder, raw};
use ostler_disk::{Completion, Engine, IoBuf, Op};
use proptest::prelude::*;

const BLOCKS: u64 = 32;
const BLOCK: u64 = 4096;
const SIZE: u64 = BLOCKS * BLOCK;

#[derive(Debug, Clone)]
enum Request {
    Read {
        block: u64,
        blocks: u64,
        cuts: Vec<usize>,
    },
    Write {
        block: u64,
        blocks: u64,
        cuts: Vec<usize>,
        fill: u8,
    },
    Zero {
        block: u64,
        blocks: u64,
        unmap: bool,
    },
    Flush,
    /// All before this end before anything after it starts.
    Barrier,
}

fn request() -> impl Strategy<Value = Request> {
    let span = || (0..BLOCKS, 0u64..8).prop_map(|(block, blocks)| (block, blocks.min(BLOCKS - block)));
    let cuts = || prop::collection::vec(prop_oneof![1usize..5000, Just(512), Just(4096)], 0..5);
    prop_oneof![
        4 => (span(), cuts()).prop_map(|((block, blocks), cuts)| Request::Read { block, blocks, cuts }),
        4 => (span(), cuts(), any::<u8>())
            .prop_map(|((block, blocks), cuts, fill)| Request::Write { block, blocks, cuts, fill }),
        2 => (span(), any::<bool>()).prop_map(|((block, blocks), unmap)| Request::Zero { block, blocks, unmap }),
        1 => Just(Request::Flush),
        1 => Just(Request::Barrier),
    ]
}

/// One request's memory. `room` is larger than needed, so that buffers can start at odd addresses.
struct Memory {
    room: Vec<u8>,
    skip: usize,
    len: usize,
    expected: Option<Vec<u8>>,
}

impl Memory {
    fn new(len: usize, skip: usize) -> Self {
        Self {
            room: vec![0xee; len + 64],
            skip,
            len,
            expected: None,
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.room[self.skip..self.skip + self.len]
    }

    fn buffers(&mut self, cuts: &[usize]) -> Vec<IoBuf> {
        let mut rest = IoBuf::of(self.bytes());
        let mut buffers = Vec::new();
        for cut in cuts {
            buffers.push(rest.truncated(*cut));
            rest = rest.advanced(*cut);
        }
        buffers.push(rest);
        buffers
    }
}

fn overlaps(busy: &[(u64, u64)], block: u64, blocks: u64) -> bool {
    busy.iter()
        .any(|(at, len)| *at < block + blocks && block < at + len)
}

fn check(requests: &[Request], engine: Engine, direct: bool, odd: u64) {
    let folder = folder();
    let path = folder.path().join("disk");
    let mut model: Vec<u8> = (0..SIZE - odd).map(|i| (i / 512 + i * 3) as u8).collect();
    std::fs::write(&path, &model).unwrap();
    model.resize(SIZE as usize, 0);
    let Some(disk) = raw("model", &path, engine, direct) else {
        return;
    };
    assert_eq!(disk.size(), SIZE);
    let mut queue = disk.open_queue(4).unwrap();
    let mut memories: Vec<Memory> = Vec::new();
    let mut busy: Vec<(u64, u64)> = Vec::new();

    let settle = |queue: &mut dyn ostler_disk::DiskQueue, memories: &mut Vec<Memory>, busy: &mut Vec<_>| {
        let mut ended = finish(queue);
        ended.sort_by_key(|completion| completion.token);
        let expected: Vec<_> = (0..ended.len() as u64)
            .map(|token| Completion {
                token,
                result: Ok(()),
            })
            .collect();
        assert_eq!(ended, expected);
        for mut memory in memories.drain(..) {
            if let Some(expected) = memory.expected.take() {
                assert!(memory.bytes() == expected, "a read gave other bytes");
            }
            assert!(
                memory.room[..memory.skip].iter().all(|b| *b == 0xee),
                "bytes before the buffer changed"
            );
            assert!(
                memory.room[memory.skip + memory.len..].iter().all(|b| *b == 0xee),
                "bytes behind it changed"
            );
        }
        busy.clear();
    };

    let mut token = 0;
    for (index, request) in requests.iter().enumerate() {
        let (block, blocks) = match request {
            Request::Read { block, blocks, .. }
            | Request::Write { block, blocks, .. }
            | Request::Zero { block, blocks, .. } => (*block, *blocks),
            Request::Flush | Request::Barrier => (0, 0),
        };
        // Requests that overlap have no defined order, so they are kept apart.
        if matches!(request, Request::Barrier) || overlaps(&busy, block, blocks) {
            settle(&mut *queue, &mut memories, &mut busy);
            token = 0;
        }
        let (offset, len) = (block * BLOCK, blocks * BLOCK);
        let range = offset as usize..(offset + len) as usize;
        let mut memory = Memory::new(len as usize, index % 2 * 16);
        let buffers;
        let op = match request {
            Request::Read { cuts, .. } => {
                memory.expected = Some(model[range].to_vec());
                buffers = memory.buffers(cuts);
                Op::Read {
                    offset,
                    buffers: &buffers,
                }
            }
            Request::Write { cuts, fill, .. } => {
                for (i, byte) in memory.bytes().iter_mut().enumerate() {
                    *byte = fill.wrapping_add((i / 512) as u8);
                }
                model[range].copy_from_slice(memory.bytes());
                buffers = memory.buffers(cuts);
                Op::Write {
                    offset,
                    buffers: &buffers,
                }
            }
            Request::Zero { unmap, .. } => {
                model[range].fill(0);
                Op::WriteZeroes {
                    offset,
                    len,
                    unmap: *unmap,
                }
            }
            Request::Flush => Op::Flush,
            Request::Barrier => continue,
        };
        // SAFETY: `memory` moves into `memories`, its heap block stays, until the request has ended.
        unsafe { queue.push(token, op) };
        token += 1;
        busy.push((block, blocks));
        memories.push(memory);
    }
    settle(&mut *queue, &mut memories, &mut busy);
    drop(queue);
    drop(disk);
    let mut file = std::fs::read(&path).unwrap();
    assert!(file.len() as u64 >= SIZE - odd && file.len() as u64 <= SIZE);
    file.resize(SIZE as usize, 0);
    assert!(file == model, "the file differs from the model");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn uring_and_the_model_agree(
        requests in prop::collection::vec(request(), 1..40), direct: bool, odd in prop_oneof![Just(0u64), 1u64..512],
    ) {
        check(&requests, Engine::Uring, direct, odd);
    }

    #[test]
    fn threads_and_the_model_agree(
        requests in prop::collection::vec(request(), 1..40), direct: bool, odd in prop_oneof![Just(0u64), 1u64..512],
    ) {
        check(&requests, Engine::Threads, direct, odd);
    }
}
