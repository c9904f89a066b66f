//! One virtual machine: the glue behind the accelerator's trait.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;
use ostler_accel::{
    CpuidLeaf, Error, ExternalInterrupts, IoapicPin, SmiTarget, SyntheticConnection, SyntheticInterrupts,
    SyntheticSource, SystemManagement, Vcpu, Vm, VmConfig,
};
use ostler_bus::{Doorbell, DoorbellRegistry, Msi, MsiSink};
use ostler_memory::RamSlot;
use vmm_sys_util::eventfd::EventFd;

use crate::doorbell;
use crate::external::ExternalWire;
use crate::hyperv::{self, Synic};
use crate::kick::{Kicker, Kickers};
use crate::kvm::{VmFeatures, cpuid_entries, enforce_paravirtual};
use crate::routes::{self, Routes};
use crate::slots::{Slots, Space};
use crate::sys;
use crate::vcpu::KvmVcpu;

/// What a VM and its vCPUs share. Field order matters at the end: the VM's descriptor goes before the memory it maps.
pub struct Shared {
    pub fd: VmFd,
    pub features: VmFeatures,
    /// The MSRs of a vCPU's state that this KVM knows, in the order in which they are to be set.
    pub msrs: Vec<u32>,
    pub external: ExternalWire,
    /// True once a state set the TSC of one of the vCPUs.
    pub tsc_was_set: Mutex<bool>,
    pub routes: Routes,
    pub synic: Synic,
    slots: Slots,
    has_smm: AtomicBool,
    kickers: Arc<Kickers>,
}

impl Shared {
    fn replace(&self, space: Space, slots: Vec<RamSlot>) -> Result<(), Error> {
        self.slots.replace(&self.fd, &self.features, space, slots)
    }

    /// True if the guest has system management mode.
    pub fn has_smm(&self) -> bool {
        self.has_smm.load(Ordering::SeqCst)
    }

    /// Tells how to reach a vCPU.
    pub fn add_vcpu(&self, id: u32, kicker: Arc<Kicker>) {
        if id == 0 {
            self.external.set_vcpu0(kicker.clone());
        }
        self.kickers.add(id, kicker);
    }

    /// The RAM that the guest has at `[gpa, gpa + len)` outside system management mode, and where in its mapping that begins; `None`
    /// if it is not in one slot, or the guest cannot write there.
    pub fn ram(&self, gpa: u64, len: usize) -> Option<(RamSlot, usize)> {
        self.slots.find(gpa, len)
    }
}

/// A virtual machine on KVM.
pub struct KvmVm {
    shared: Arc<Shared>,
    cpus: u32,
}

impl KvmVm {
    /// Puts the memory map of `config` into the fresh VM `fd`.
    pub fn new(fd: VmFd, features: VmFeatures, msrs: Vec<u32>, config: VmConfig) -> Result<Self, Error> {
        let kickers = Arc::new(Kickers::default());
        let shared = Shared {
            fd,
            features,
            msrs,
            external: ExternalWire::default(),
            tsc_was_set: Mutex::default(),
            routes: Routes::default(),
            synic: Synic::new(kickers.clone()),
            slots: Slots::new(),
            has_smm: AtomicBool::new(false),
            kickers,
        };
        shared.replace(Space::Normal, config.slots)?;
        Ok(Self {
            shared: Arc::new(shared),
            cpus: config.cpus,
        })
    }
}

impl Vm for KvmVm {
    fn create_vcpu(&self, id: u32, cpuid: &[CpuidLeaf]) -> Result<Box<dyn Vcpu>, Error> {
        if id >= self.cpus {
            return Err(Error::Unsupported(format!(
                "CPU {id} in a virtual machine that was made for {} CPUs",
                self.cpus
            )));
        }
        let fd = self
            .shared
            .fd
            .create_vcpu(id.into())
            .map_err(|e| Error::host("create a vCPU", e))?;
        let features = &self.shared.features;
        hyperv::switch_on(&fd, features.hyperv_by_cpuid, cpuid)?;
        fd.set_cpuid2(&cpuid_entries(cpuid)?)
            .map_err(|e| Error::host("set what CPUID answers on a vCPU", e))?;
        if features.pv_by_cpuid {
            enforce_paravirtual(&fd)?;
        }
        let vcpu = KvmVcpu::new(id, fd, cpuid, self.shared.clone())?;
        Ok(Box::new(vcpu))
    }

    fn set_slots(&self, slots: Vec<RamSlot>) -> Result<(), Error> {
        self.shared.replace(Space::Normal, slots)
    }

    fn set_ioapic_pins(&self, pins: &[IoapicPin]) -> Result<(), Error> {
        self.shared
            .routes
            .set_pins(&self.shared.fd, pins)
            .map_err(|e| Error::host("mirror the IOAPIC's pins as interrupt routes", e))
    }

    fn set_external_interrupts(&self, source: Arc<dyn ExternalInterrupts>) {
        self.shared.external.set_source(source);
    }

    fn external_interrupt_raised(&self) {
        self.shared.external.raise();
    }

    fn set_dirty_log(&self, on: bool) -> Result<(), Error> {
        self.shared.slots.set_logging(&self.shared.fd, on)
    }

    fn sync_dirty(&self) -> Result<(), Error> {
        self.shared.slots.sync_dirty(&self.shared.fd)
    }

    fn clock(&self) -> Result<u64, Error> {
        let clock = self
            .shared
            .fd
            .get_clock()
            .map_err(|e| Error::host("read the guest's clock", e))?;
        Ok(clock.clock)
    }

    fn set_clock(&self, nanoseconds: u64) -> Result<(), Error> {
        let clock = kvm_clock_data {
            clock: nanoseconds,
            ..Default::default()
        };
        self.shared
            .fd
            .set_clock(&clock)
            .map_err(|e| Error::host("set the guest's clock", e))
    }

    fn synthetic_interrupts(&self) -> Option<&dyn SyntheticInterrupts> {
        Some(self)
    }

    fn system_management(&self) -> Option<&dyn SystemManagement> {
        self.shared.features.smm.then_some(self)
    }
}

impl SystemManagement for KvmVm {
    fn set_slots(&self, normal: Vec<RamSlot>, smm: Vec<RamSlot>) -> Result<(), Error> {
        self.shared.replace(Space::Normal, normal)?;
        self.shared.replace(Space::Smm, smm)?;
        self.shared.has_smm.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// KVM takes an SMI from a vCPU's own thread only: while the vCPU runs, its other callers wait.
    fn raise_smi(&self, to: SmiTarget) {
        if !self.shared.has_smm() {
            return;
        }
        self.shared.kickers.raise_smi(to);
    }
}

impl SyntheticInterrupts for KvmVm {
    fn open(&self, source: SyntheticSource) -> Result<(), Error> {
        let Shared {
            synic, fd, routes, ..
        } = &*self.shared;
        synic.open(fd, routes, source)
    }

    fn close(&self, source: SyntheticSource) {
        let Shared {
            synic, fd, routes, ..
        } = &*self.shared;
        synic.close(fd, routes, source);
    }

    fn raise(&self, source: SyntheticSource) {
        self.shared.synic.raise(source);
    }

    fn connect(&self, connection: SyntheticConnection, to: SyntheticSource) -> Result<(), Error> {
        let Shared {
            synic, fd, routes, ..
        } = &*self.shared;
        synic.connect(fd, routes, connection, to)
    }

    fn disconnect(&self, connection: SyntheticConnection) {
        let Shared {
            synic, fd, routes, ..
        } = &*self.shared;
        synic.disconnect(fd, routes, connection);
    }
}

impl MsiSink for KvmVm {
    fn signal(&self, msi: Msi) {
        routes::signal(&self.shared.fd, msi);
    }

    fn connect(&self, event: &EventFd, msi: Option<Msi>) -> io::Result<()> {
        self.shared.routes.connect(&self.shared.fd, event, msi)
    }
}

impl DoorbellRegistry for KvmVm {
    fn add(&self, bell: Doorbell, event: &EventFd) -> io::Result<()> {
        sys::ioeventfd(&self.shared.fd, &doorbell::request(bell, event, false)?)
    }

    fn remove(&self, bell: Doorbell, event: &EventFd) -> io::Result<()> {
        sys::ioeventfd(&self.shared.fd, &doorbell::request(bell, event, true)?)
    }
}
