//! PCI Express root ports with native hotplug (PCIe 4.0, 6.7 and 7.5.3).

use std::sync::{Arc, Mutex, OnceLock};

use ostler_bus::{Device, InterruptLine, MsiSink};

use crate::config::{ConfigSpace, Identity};
use crate::function::{PciFunction, Pin};
use crate::intx::Intx;
use crate::msi::MsiCapability;
use crate::regs;

/// Offsets within the PCI Express capability.
const LINK_STATUS: u16 = 0x12;
const SLOT_CONTROL: u16 = 0x18;
const SLOT_STATUS: u16 = 0x1a;

const LINK_ACTIVE: u16 = 1 << 13;

const STATUS_ATTENTION: u16 = 1 << 0;
const STATUS_PRESENCE_CHANGED: u16 = 1 << 3;
const STATUS_PRESENT: u16 = 1 << 6;
const STATUS_LINK_CHANGED: u16 = 1 << 8;
const STATUS_EVENTS: u16 = STATUS_ATTENTION | STATUS_PRESENCE_CHANGED | STATUS_LINK_CHANGED;

const CONTROL_INTERRUPT: u16 = 1 << 5;
const CONTROL_POWER_OFF: u16 = 1 << 10;
const CONTROL_LINK_CHANGED: u16 = 1 << 12;
const CONTROL_POWER_INDICATOR: u16 = 0b11 << 8;
const POWER_INDICATOR_OFF: u16 = 0b11 << 8;
const POWER_INDICATOR_BLINK: u16 = 0b10 << 8;
const CONTROL_ATTENTION_INDICATOR_OFF: u16 = 0b11 << 6;

/// Slot capabilities: attention button, power controller, both indicators, hotplug with surprise removal, and no
/// command-completed events (every command takes effect at once).
const SLOT_CAPABILITIES: u32 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 18;

/// What happened in a port's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotEvent {
    /// The guest switched the slot's power off: the device has left.
    Ejected,
}

/// What the guest lets a slot's device know of its fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotPower {
    /// Off: whoever pulls the device takes it from no one.
    Off,
    /// On, and the guest is about to change that: its power indicator blinks, and a press of the attention button would be
    /// taken for a change of mind.
    Changing,
    /// On.
    On,
}

type Listener = Box<dyn Fn(SlotEvent) + Send + Sync>;

/// What a guest reads of a root port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortIdentity {
    /// Number of the physical slot, unique in the machine; 0 where slots have none, and guests then name devices by their places.
    pub slot: u16,
    /// Number of the port (link capabilities).
    pub number: u8,
    /// Whether devices come and go in the slot.
    pub hotplug: bool,
}

/// A root port with one slot behind it.
pub struct RootPort {
    config: ConfigSpace,
    hotplug: bool,
    express: u16,
    msi: MsiCapability,
    intx: Intx,
    child: Mutex<Option<Arc<dyn PciFunction>>>,
    /// An enabled event is up. Held while the guest is told, so that two changes cannot cross.
    asking: Mutex<bool>,
    listener: OnceLock<Listener>,
}

impl RootPort {
    /// An empty port with a hotplug slot. `slot` is the physical slot number that the guest shows, unique in the machine.
    pub fn new(slot: u16, sink: Arc<dyn MsiSink>) -> Arc<Self> {
        let number = slot as u8;
        let hotplug = true;
        Self::with(
            PortIdentity {
                slot,
                number,
                hotplug,
            },
            sink,
        )
    }

    /// An empty port.
    pub fn with(port: PortIdentity, sink: Arc<dyn MsiSink>) -> Arc<Self> {
        let identity = Identity {
            vendor: 0x1b36,
            device: 0x000c,
            class: 0x06_0400,
            ..Identity::default()
        };
        let mut builder = ConfigSpace::type1(identity);
        builder.interrupt_pin(Pin::A);
        let (body, writable) = express_capability(port);
        let express = builder.capability(regs::CAP_EXPRESS, &body, &writable);
        builder.put_w1c_u16(express + 0x0a, 0x000f); // device status
        builder.put_w1c_u16(express + SLOT_STATUS, 0x011f);
        let msi = MsiCapability::new(&mut builder, sink);
        let config = builder.build();
        let child = Mutex::new(None);
        Arc::new(Self {
            config,
            hotplug: port.hotplug,
            express,
            msi,
            intx: Intx::new(),
            child,
            asking: Mutex::default(),
            listener: OnceLock::new(),
        })
    }

    /// Calls `listener` on slot events from then on; a second call changes nothing.
    pub fn listen(&self, listener: impl Fn(SlotEvent) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
    }

    /// The device in the slot, where the slot has power.
    pub fn child(&self) -> Option<Arc<dyn PciFunction>> {
        self.child
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }

    /// The bus behind the port.
    pub fn secondary_bus(&self) -> u8 {
        self.config.u8(regs::SECONDARY_BUS)
    }

    /// Whether devices come and go in the slot.
    pub fn has_hotplug(&self) -> bool {
        self.hotplug
    }

    /// Whether the slot has power.
    pub fn power(&self) -> SlotPower {
        let control = self.config.u16(self.express + SLOT_CONTROL);
        if control & CONTROL_POWER_OFF != 0 {
            SlotPower::Off
        } else if control & CONTROL_POWER_INDICATOR == POWER_INDICATOR_BLINK {
            SlotPower::Changing
        } else {
            SlotPower::On
        }
    }

    /// Puts a device into the slot; `cold` before the guest runs, without an event. False if it is occupied.
    pub(crate) fn insert(&self, function: Arc<dyn PciFunction>, cold: bool) -> bool {
        {
            let mut child = self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if child.is_some() {
                return false;
            }
            *child = Some(function);
        }
        self.show_presence(!cold);
        true
    }

    /// Takes the device out at once, as if it were pulled.
    pub(crate) fn pull(&self) -> Option<Arc<dyn PciFunction>> {
        let child = self
            .child
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .take();
        if child.is_some() {
            self.show_presence(true);
        }
        child
    }

    /// Presses the attention button: the guest is asked to let the device go.
    pub fn press_attention(&self) {
        self.config
            .update_u16(self.express + SLOT_STATUS, 0, STATUS_ATTENTION);
        self.notify();
    }

    /// Brings slot and link status in line with whether a device is there.
    fn show_presence(&self, event: bool) {
        let present = self.child().is_some();
        let changed = if event {
            STATUS_PRESENCE_CHANGED | STATUS_LINK_CHANGED
        } else {
            0
        };
        let status = if present { STATUS_PRESENT } else { 0 };
        self.config
            .update_u16(self.express + SLOT_STATUS, STATUS_PRESENT, status | changed);
        let link = if present { LINK_ACTIVE } else { 0 };
        self.config
            .update_u16(self.express + LINK_STATUS, LINK_ACTIVE, link);
        if !event && self.hotplug {
            let (clear, set) = if present {
                (CONTROL_POWER_OFF | CONTROL_POWER_INDICATOR, 1 << 8)
            } else {
                (0, 0)
            };
            self.config.update_u16(self.express + SLOT_CONTROL, clear, set);
        }
        self.notify();
    }

    /// Raises the hotplug interrupt if an enabled event is up; a message goes out when the first one comes (6.7.3.4).
    fn notify(&self) {
        let mut asking = self
            .asking
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let control = self.config.u16(self.express + SLOT_CONTROL);
        let status = self.config.u16(self.express + SLOT_STATUS);
        let mut enabled = control & (STATUS_ATTENTION | STATUS_PRESENCE_CHANGED);
        if control & CONTROL_LINK_CHANGED != 0 {
            enabled |= STATUS_LINK_CHANGED;
        }
        let wanted = control & CONTROL_INTERRUPT != 0 && status & enabled & STATUS_EVENTS != 0;
        let asked = std::mem::replace(&mut *asking, wanted);
        if wanted && !asked && self.msi.trigger(&self.config) {
            return;
        }
        self.intx
            .set(&self.config, wanted && !self.msi.enabled(&self.config));
    }

    /// The guest wrote slot control: power that goes off ejects the device.
    fn slot_control_written(&self, before: u16) {
        let after = self.config.u16(self.express + SLOT_CONTROL);
        let off = |control: u16| control & CONTROL_POWER_OFF != 0;
        if off(after) && !off(before) {
            let child = self
                .child
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .take();
            if let Some(child) = child {
                // Who hears of it may be the last one to hold the device.
                drop(child);
                self.show_presence(true);
                if let Some(listener) = self.listener.get() {
                    listener(SlotEvent::Ejected);
                }
            }
        }
    }

    /// After a reset: the slot's power follows whether there is a device.
    fn restore_slot(&self) {
        self.show_presence(false);
    }
}

/// Body and write mask of the port's PCI Express capability (without id and next pointer).
fn express_capability(port: PortIdentity) -> ([u8; 0x3a], [u8; 0x3a]) {
    let mut body = [0; 0x3a];
    let mut writable = [0; 0x3a];
    let mut put = |offset: usize, value: u32, mask: u32, width: usize| {
        body[offset - 2..offset - 2 + width].copy_from_slice(&value.to_le_bytes()[..width]);
        writable[offset - 2..offset - 2 + width].copy_from_slice(&mask.to_le_bytes()[..width]);
    };
    put(0x02, 2 | 4 << 4 | 1 << 8, 0, 2); // version 2, root port, slot implemented
    put(0x04, 1 << 15, 0, 4); // role-based error reporting
    put(0x08, 0, 0x70ef, 2); // device control
    put(
        0x0c,
        0x11 | 1 << 20 | 1 << 19 | u32::from(port.number) << 24,
        0,
        4,
    ); // 2.5 GT/s x1, link active reporting
    put(0x10, 0, 0x00f8, 2); // link control
    put(0x12, 0x11, 0, 2); // link status
    let capabilities = if port.hotplug { SLOT_CAPABILITIES } else { 0 };
    put(0x14, capabilities | u32::from(port.slot & 0x1fff) << 19, 0, 4);
    let idle = CONTROL_POWER_OFF | POWER_INDICATOR_OFF | CONTROL_ATTENTION_INDICATOR_OFF;
    if port.hotplug {
        put(0x18, idle.into(), 0x1fff, 2); // slot control
    }
    put(0x1c, 0, 0x001f, 2); // root control
    put(0x30, 1, 0x000f, 2); // link control 2: target speed
    (body, writable)
}

impl PciFunction for RootPort {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let slot_control = self.config.u16(self.express + SLOT_CONTROL);
        self.config.write(offset, data);
        self.intx.config_written(&self.config);
        let end = u32::from(offset) + data.len() as u32;
        if end > u32::from(self.express + SLOT_CONTROL) && offset < self.express + SLOT_STATUS + 2 {
            self.slot_control_written(slot_control);
            self.notify();
        }
    }

    fn bar(&self, _index: usize) -> Option<Arc<dyn Device>> {
        None
    }

    fn bar_moved(&self, _index: usize, _base: Option<u64>) {}

    fn connect_intx(&self, line: Arc<dyn InterruptLine>) {
        self.intx.connect(line);
    }

    fn reset(&self) {
        if let Some(child) = self.child() {
            child.reset();
        }
        self.config.reset();
        self.restore_slot();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_bus::Msi;
    use std::sync::atomic::{AtomicU32, Ordering};
    use vmm_sys_util::eventfd::EventFd;

    #[derive(Default)]
    struct Sink(AtomicU32);
    impl MsiSink for Sink {
        fn signal(&self, _: Msi) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn connect(&self, _: &EventFd, _: Option<Msi>) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Dummy(ConfigSpace);
    impl PciFunction for Dummy {
        fn config(&self) -> &ConfigSpace {
            &self.0
        }
        fn bar(&self, _: usize) -> Option<Arc<dyn Device>> {
            None
        }
        fn bar_moved(&self, _: usize, _: Option<u64>) {}
        fn connect_intx(&self, _: Arc<dyn InterruptLine>) {}
        fn reset(&self) {
            self.0.reset();
        }
    }

    fn dummy() -> Arc<dyn PciFunction> {
        Arc::new(Dummy(ConfigSpace::type0(Identity::default()).build()))
    }

    fn status(port: &RootPort) -> u16 {
        port.config.u16(port.express + SLOT_STATUS)
    }

    #[test]
    fn plug_and_eject_by_the_guest() {
        let sink = Arc::new(Sink::default());
        let port = RootPort::new(1, sink.clone());
        let ejected = Arc::new(AtomicU32::new(0));
        let seen = ejected.clone();
        port.listen(move |_| {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(status(&port) & STATUS_PRESENT, 0);

        // The guest turns on MSI and the hotplug events, as its driver does.
        let enable = CONTROL_INTERRUPT | STATUS_PRESENCE_CHANGED | STATUS_ATTENTION | CONTROL_POWER_OFF;
        port.config_write(port.express + SLOT_CONTROL, &enable.to_le_bytes());
        let msi = (0x40..0x100)
            .step_by(4)
            .find(|at| port.config.u8(*at) == regs::CAP_MSI)
            .unwrap();
        port.config_write(msi + 2, &[1, 0]);

        assert!(port.insert(dummy(), false));
        assert!(!port.insert(dummy(), false), "occupied");
        assert_eq!(sink.0.load(Ordering::Relaxed), 1);
        assert_eq!(
            status(&port) & (STATUS_PRESENT | STATUS_PRESENCE_CHANGED),
            STATUS_PRESENT | STATUS_PRESENCE_CHANGED
        );
        port.config_write(port.express + SLOT_STATUS, &0x1ffu16.to_le_bytes());
        assert_eq!(status(&port), STATUS_PRESENT);

        let on = enable & !CONTROL_POWER_OFF;
        port.config_write(port.express + SLOT_CONTROL, &on.to_le_bytes());
        assert_eq!(port.power(), SlotPower::On);
        port.press_attention();
        assert_eq!(sink.0.load(Ordering::Relaxed), 2);
        let blinking = on & !CONTROL_POWER_INDICATOR | POWER_INDICATOR_BLINK;
        port.config_write(port.express + SLOT_CONTROL, &blinking.to_le_bytes());
        assert_eq!(port.power(), SlotPower::Changing);
        assert!(port.child().is_some());
        port.config_write(port.express + SLOT_STATUS, &0x1ffu16.to_le_bytes());
        port.config_write(port.express + SLOT_CONTROL, &enable.to_le_bytes());
        assert!(port.child().is_none());
        assert_eq!(ejected.load(Ordering::Relaxed), 1);
        assert_eq!(port.power(), SlotPower::Off);
        assert_eq!(status(&port) & STATUS_PRESENT, 0);
    }

    #[test]
    fn a_device_there_from_the_start_raises_no_event_and_survives_reset() {
        let sink = Arc::new(Sink::default());
        let port = RootPort::new(2, sink.clone());
        assert!(port.insert(dummy(), true));
        assert_eq!(status(&port), STATUS_PRESENT);
        port.reset();
        assert_eq!(status(&port), STATUS_PRESENT);
        let control = port.config.u16(port.express + SLOT_CONTROL);
        assert_eq!(control & CONTROL_POWER_OFF, 0, "an occupied slot has power");
        assert_eq!(sink.0.load(Ordering::Relaxed), 0);
        assert!(port.pull().is_some());
        assert_eq!(
            status(&port) & (STATUS_PRESENT | STATUS_PRESENCE_CHANGED),
            STATUS_PRESENCE_CHANGED
        );
    }
}
