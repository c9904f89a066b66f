//! One vCPU behind the accelerator's trait.

use std::sync::Arc;

use ostler_accel::{
    CpuState, CpuidLeaf, DebugLimits, DebugRequest, Error, Exit, ExitCause, Initiator, Kick, KickSource,
    Vcpu, VcpuStats,
};

use super::convert;
use crate::block::BlockCache;
use crate::engine::{self, Left};
use crate::shared::{VcpuShared, VmShared, attention};
use crate::state::{Cpu, PendingExit};
use crate::system;

/// Bytes of decoded blocks and host code that each vCPU may keep, and what they share besides.
const CACHE_BYTES_EACH: usize = 40 << 20;
const CACHE_BYTES_SHARED: usize = 72 << 20;
/// What all of them may keep together.
const CACHE_BYTES_MOST: usize = 512 << 20;

/// How often as much it may be for a guest that comes round to more code than that.
const CACHE_GROWTH: usize = 2;

/// Bytes of decoded blocks and host code that each of `cpus` vCPUs may keep.
fn cache_bytes(cpus: usize) -> usize {
    let cpus = cpus.max(1);
    (CACHE_BYTES_EACH + CACHE_BYTES_SHARED / cpus).min(CACHE_BYTES_MOST / cpus)
}

/// A vCPU.
pub struct SoftVcpu {
    cpu: Box<Cpu>,
    cache: BlockCache,
}

/// Brings a vCPU back.
struct Kicker(Arc<VcpuShared>);

impl Kick for Kicker {
    fn kick(&self, source: KickSource) {
        self.0.stats.count_kick(source);
        self.0.poke(attention::KICK);
    }
}

impl SoftVcpu {
    /// vCPU `id` after RESET.
    pub(crate) fn new(vm: Arc<VmShared>, id: u32, cpuid: &[CpuidLeaf]) -> Result<Self, Error> {
        let enough = cache_bytes(vm.vcpus.len());
        let shared = Arc::new(VcpuShared::new(id));
        for source in [KickSource::Device, KickSource::Ipi, KickSource::Timer] {
            shared.stats.set_kicks_counted(source);
        }
        let slot = vm.vcpus.get(id as usize);
        let new = slot.is_some_and(|slot| slot.set(shared.clone()).is_ok());
        if !new {
            return Err(Error::Unsupported(format!(
                "vCPU {id} exists already, or the machine has no place for it"
            )));
        }
        let engine = vm.engine;
        let mut cpu = Cpu::new(vm, shared, id, cpuid);
        convert::restore(&mut cpu, &ostler_accel::reset_state(id))?;
        Ok(Self {
            cpu,
            cache: BlockCache::new(enough, CACHE_GROWTH * enough, engine),
        })
    }

    fn take_map(&mut self) {
        let map = self.cpu.vm.map.load_full();
        if self.cpu.mmu.set_map(map, self.cpu.smm.active) {
            self.cache.clear();
        }
    }
}

impl Vcpu for SoftVcpu {
    fn run(&mut self) -> Result<Exit<'_>, Error> {
        complete(&mut self.cpu);
        self.take_map();
        self.cpu.account_user();
        let left = engine::run(&mut self.cpu, &mut self.cache);
        self.cpu.account_guest();
        if matches!(left, Left::Kicked | Left::Shutdown | Left::Debug(_)) {
            self.cpu.account_pause();
        }
        let cpu = &mut *self.cpu;
        ostler_accel::set_initiator(Initiator {
            vcpu: cpu.id,
            smm: cpu.smm.active,
        });
        Ok(match left {
            Left::Ended(vector) => Exit::EndOfInterrupt { vector },
            Left::Kicked => Exit::Kicked,
            Left::Shutdown => Exit::Shutdown,
            Left::Debug(cause) => Exit::Debug(cause),
            Left::Request => request(cpu),
        })
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        system::take_posted(&mut self.cpu);
        convert::save(&mut self.cpu)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        self.take_map();
        convert::restore(&mut self.cpu, state)
    }

    fn set_debug(&mut self, request: &DebugRequest) -> Result<(), Error> {
        self.cache.set_breakpoints(request);
        self.cpu.set_debugging(request);
        Ok(())
    }

    fn debug_limits(&self) -> DebugLimits {
        DebugLimits {
            points: usize::MAX,
            reads: true,
            aligned: false,
        }
    }

    fn set_registers(&mut self, state: &CpuState) -> Result<(), Error> {
        self.take_map();
        convert::restore_registers(&mut self.cpu, state)
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::new(Kicker(self.cpu.shared.clone()))
    }

    fn stats(&self) -> Arc<VcpuStats> {
        self.cpu.shared.stats.clone()
    }
}

/// The exit that the CPU asks for.
pub(crate) fn request(cpu: &mut Cpu) -> Exit<'_> {
    let stats = &cpu.shared.stats;
    let data = &mut cpu.exit_data[..];
    match cpu.exit {
        PendingExit::PortRead { port, width, len } => {
            stats.count_exit(ExitCause::PortRead);
            Exit::PortRead {
                port,
                width,
                data: &mut data[..len],
            }
        }
        PendingExit::PortWrite { port, width, len } => {
            stats.count_exit(ExitCause::PortWrite);
            Exit::PortWrite {
                port,
                width,
                data: &data[..len],
            }
        }
        PendingExit::MmioRead { gpa, len } => {
            stats.count_exit(ExitCause::MmioRead);
            Exit::MmioRead {
                gpa,
                data: &mut data[..len],
            }
        }
        PendingExit::MmioWrite { gpa, len } => {
            stats.count_exit(ExitCause::MmioWrite);
            Exit::MmioWrite {
                gpa,
                data: &data[..len],
            }
        }
        PendingExit::None => Exit::Kicked,
    }
}

/// Takes over what user mode answered to the last exit.
pub(crate) fn complete(cpu: &mut Cpu) {
    let word = |cpu: &Cpu, len: usize| {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(&cpu.exit_data[..len]);
        u64::from_le_bytes(bytes)
    };
    match std::mem::take(&mut cpu.exit) {
        PendingExit::None => {}
        PendingExit::PortRead { len, .. } | PendingExit::MmioRead { len, .. } => {
            let value = word(cpu, len.min(8));
            cpu.replay.answer(value);
        }
        PendingExit::PortWrite { .. } | PendingExit::MmioWrite { .. } => cpu.replay.answer(0),
    }
}
