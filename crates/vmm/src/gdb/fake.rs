//! A guest for tests of a debugger's conversation.

use ostler_accel::{CpuState, reset_state};

use super::target::{Gone, Move, NoPoint, Point, Space, Stop, Target};
use crate::driver::Request;

/// A guest with two CPUs that does nothing.
pub(super) struct Fake {
    pub states: Vec<CpuState>,
    /// Linear addresses are these, 0x1000 further on.
    pub memory: Vec<u8>,
    pub points: Vec<Point>,
    pub moves: Vec<Move>,
    pub stops: usize,
    pub asked: Vec<Request>,
    pub gone: bool,
}

impl Fake {
    pub fn new() -> Self {
        Self {
            states: (0..2).map(reset_state).collect(),
            memory: (0..64).collect(),
            points: Vec::new(),
            moves: Vec::new(),
            stops: 0,
            asked: Vec::new(),
            gone: false,
        }
    }

    fn offset(&mut self, space: Space, address: u64) -> Option<usize> {
        let physical = match space {
            Space::Physical => address,
            Space::Virtual { cpu } => self.translate(cpu, address)?,
        };
        usize::try_from(physical)
            .ok()
            .filter(|at| *at < self.memory.len())
    }
}

impl Target for Fake {
    fn cpus(&self) -> usize {
        2
    }
    fn stop(&mut self) -> Result<(), Gone> {
        self.stops += 1;
        if self.gone { Err(Gone) } else { Ok(()) }
    }
    fn resume(&mut self, moves: &[Move]) -> Result<Option<Stop>, Gone> {
        self.moves = moves.to_vec();
        if self.gone { Err(Gone) } else { Ok(None) }
    }
    fn registers(&mut self, cpu: usize) -> Option<CpuState> {
        self.states.get(cpu).cloned()
    }
    fn set_registers(&mut self, cpu: usize, state: &CpuState) -> bool {
        self.states[cpu] = state.clone();
        true
    }
    fn translate(&mut self, _cpu: usize, linear: u64) -> Option<u64> {
        linear.checked_sub(0x1000)
    }
    fn read(&mut self, space: Space, address: u64, into: &mut [u8]) -> usize {
        let Some(at) = self.offset(space, address) else {
            return 0;
        };
        let count = into.len().min(self.memory.len() - at);
        into[..count].copy_from_slice(&self.memory[at..at + count]);
        count
    }
    fn write(&mut self, space: Space, address: u64, bytes: &[u8]) -> bool {
        let at = self.offset(space, address);
        let place = at.and_then(|at| self.memory.get_mut(at..at + bytes.len()));
        place.map(|place| place.copy_from_slice(bytes)).is_some()
    }
    fn insert(&mut self, point: Point, _cpu: usize) -> Result<(), NoPoint> {
        if self.points.len() == 3 {
            return Err(NoPoint::Refused);
        }
        self.points.push(point);
        Ok(())
    }
    fn remove(&mut self, point: Point) {
        self.points.retain(|known| *known != point);
    }
    fn ask(&mut self, request: Request) -> Result<(), String> {
        self.asked.push(request);
        Ok(())
    }
    fn state(&self) -> &'static str {
        "paused"
    }
}
