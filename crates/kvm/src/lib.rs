//! The accelerator that runs guests on the host's /dev/kvm.
//!
//! [`Kvm`] makes virtual machines with a *split* interrupt controller: every vCPU's LAPIC is in the kernel, while IOAPIC,
//! 8259 pair and PIT are the machine's own code, the same as on the software CPU. What the guest does often stays out of
//! user mode: doorbells are ioeventfds, interrupts of devices are irqfds with MSI routes, HLT sleeps in the kernel.
//!
//! | file | idea |
//! |---|---|
//! | `kvm` | the device: what it can do, making a VM |
//! | `vm` | one virtual machine: the glue behind [`ostler_accel::Vm`] |
//! | `slots` | memory slots, in both address spaces (outside system management mode and in it), and the dirty log |
//! | `routes` | which message each GSI sends; irqfds; IOAPIC pins mirrored for their end-of-interrupt exits |
//! | `doorbell` | ioeventfds |
//! | `hyperv/` | what KVM has of Hyper-V's interface, and what it leaves to us: messages and events |
//! | `external` | the 8259's ExtINT into vCPU 0 |
//! | `vcpu` | entering guest mode, and decoding why it was left |
//! | `halt` | how long the kernel polls before a vCPU sleeps |
//! | `debug` | what a debugger wants, in the processor's breakpoint registers |
//! | `kick` | bringing a vCPU back without a race |
//! | `state/` | whole-state save and restore, in the order that the hardware needs |
//! | `stats` | the kernel's counters, by their descriptors |
//!
//! Locks: `slots`, `routes`, the list of vCPUs and the book of `hyperv/` have one each, and they never nest. What KVM knows of that book
//! has another, within which the book's and that of `routes` are taken.

mod debug;
mod doorbell;
mod exit;
mod external;
mod halt;
mod hyperv;
mod kick;
mod kvm;
mod routes;
mod slots;
mod state;
mod stats;
mod sys;
mod vcpu;
mod vm;

pub use kvm::Kvm;
