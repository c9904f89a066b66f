//! The common configuration structure as plain state (virtio 1.2, 4.1.4.3).

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};

use crate::vring::QueueSettings;

pub(crate) const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
pub(crate) const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
pub(crate) const FAILED: u8 = VIRTIO_CONFIG_S_FAILED as u8;
/// The device's own status bit: the driver has to reset it.
pub(crate) const NEEDS_RESET: u8 = 0x40;
/// "No vector" in the vector registers.
pub(crate) const NO_VECTOR: u16 = 0xffff;

const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_VECTOR: u64 = 0x10;
const NUM_QUEUES: u64 = 0x12;
const STATUS: u64 = 0x14;
const GENERATION: u64 = 0x15;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;
const QUEUE_DESCRIPTORS: u64 = 0x20;
const QUEUE_AVAILABLE: u64 = 0x28;
const QUEUE_USED: u64 = 0x30;
const QUEUE_NOTIFY_DATA: u64 = 0x38;
const QUEUE_RESET: u64 = 0x3a;

/// Bytes of the structure.
pub(crate) const COMMON_SIZE: u64 = 0x3c;

/// Offset and width of every register.
const REGISTERS: [(u64, u64); 18] = [
    (DEVICE_FEATURE_SELECT, 4),
    (DEVICE_FEATURE, 4),
    (DRIVER_FEATURE_SELECT, 4),
    (DRIVER_FEATURE, 4),
    (CONFIG_VECTOR, 2),
    (NUM_QUEUES, 2),
    (STATUS, 1),
    (GENERATION, 1),
    (QUEUE_SELECT, 2),
    (QUEUE_SIZE, 2),
    (QUEUE_VECTOR, 2),
    (QUEUE_ENABLE, 2),
    (QUEUE_NOTIFY_OFF, 2),
    (QUEUE_DESCRIPTORS, 8),
    (QUEUE_AVAILABLE, 8),
    (QUEUE_USED, 8),
    (QUEUE_NOTIFY_DATA, 2),
    (QUEUE_RESET, 2),
];

/// What the driver set up for one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueRegisters {
    pub max_size: u16,
    pub settings: QueueSettings,
    pub vector: u16,
    pub enabled: bool,
}

/// What the transport has to do after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// Status 0 was written.
    Reset,
    /// DRIVER_OK came up.
    DriverOk,
    /// FAILED came up: the driver gave up on the device.
    Failed,
    /// The configuration vector changed.
    ConfigVector,
    /// The selected queue's vector changed.
    QueueVector,
}

/// The registers. Status holds the driver's bits only.
#[derive(Debug, Clone)]
pub(crate) struct CommonConfig {
    device_features: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    pub driver_features: u64,
    pub status: u8,
    pub config_vector: u16,
    pub queue_select: u16,
    pub queues: Vec<QueueRegisters>,
    /// How many MSI-X vectors there are.
    vectors: u16,
}

impl CommonConfig {
    pub fn new(device_features: u64, max_sizes: &[u16], vectors: u16) -> Self {
        let mut config = Self {
            device_features,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            status: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            queues: max_sizes
                .iter()
                .map(|&max_size| QueueRegisters::new(max_size))
                .collect(),
            vectors,
        };
        config.reset();
        config
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.status = 0;
        self.config_vector = NO_VECTOR;
        self.queue_select = 0;
        for queue in &mut self.queues {
            *queue = QueueRegisters::new(queue.max_size);
        }
    }

    /// Reads bytes from `offset` on; `device_status` and `generation` are the device's own.
    pub fn read(&self, offset: u64, data: &mut [u8], device_status: u8, generation: u8) {
        data.fill(0);
        for (at, width) in touched(offset, data.len()) {
            let value = match at {
                STATUS => u64::from(self.status | device_status),
                GENERATION => generation.into(),
                _ => self.register(at),
            };
            for (i, byte) in value.to_le_bytes().into_iter().take(width as usize).enumerate() {
                if let Some(index) = (at + i as u64).checked_sub(offset)
                    && let Some(target) = data.get_mut(index as usize)
                {
                    *target = byte;
                }
            }
        }
    }

    fn register(&self, at: u64) -> u64 {
        let queue = self.queues.get(usize::from(self.queue_select));
        let settings = queue.map(|queue| queue.settings).unwrap_or_default();
        match at {
            DEVICE_FEATURE_SELECT => self.device_feature_select.into(),
            DEVICE_FEATURE => half(self.device_features, self.device_feature_select),
            DRIVER_FEATURE_SELECT => self.driver_feature_select.into(),
            DRIVER_FEATURE => half(self.driver_features, self.driver_feature_select),
            CONFIG_VECTOR => self.config_vector.into(),
            NUM_QUEUES => self.queues.len() as u64,
            STATUS => self.status.into(),
            QUEUE_SELECT => self.queue_select.into(),
            QUEUE_SIZE => settings.size.into(),
            QUEUE_VECTOR => queue.map_or(NO_VECTOR, |queue| queue.vector).into(),
            QUEUE_ENABLE => queue.is_some_and(|queue| queue.enabled).into(),
            QUEUE_NOTIFY_OFF => queue.map_or(0, |_| self.queue_select).into(),
            QUEUE_DESCRIPTORS => settings.descriptors,
            QUEUE_AVAILABLE => settings.available,
            QUEUE_USED => settings.used,
            QUEUE_NOTIFY_DATA => queue.map_or(0, |_| self.queue_select).into(),
            _ => 0,
        }
    }

    /// Writes the register that starts at `at`.
    pub fn write(&mut self, at: u64, value: u64) -> Change {
        match at {
            DEVICE_FEATURE_SELECT => self.device_feature_select = value as u32,
            DRIVER_FEATURE_SELECT => self.driver_feature_select = value as u32,
            DRIVER_FEATURE => self.write_features(value as u32),
            CONFIG_VECTOR => {
                self.config_vector = self.valid_vector(value as u16);
                return Change::ConfigVector;
            }
            STATUS => return self.write_status(value as u8),
            QUEUE_SELECT => self.queue_select = value as u16,
            _ => return self.write_queue(at, value),
        }
        Change::Nothing
    }

    fn write_features(&mut self, value: u32) {
        // Features are settled once the driver said FEATURES_OK (3.1.1).
        if self.status & FEATURES_OK != 0 || self.driver_feature_select > 1 {
            return;
        }
        let shift = 32 * self.driver_feature_select;
        self.driver_features &= !(u64::from(u32::MAX) << shift);
        self.driver_features |= u64::from(value) << shift;
    }

    fn write_status(&mut self, value: u8) -> Change {
        if value == 0 {
            return Change::Reset;
        }
        let mut risen = value & !NEEDS_RESET & !self.status;
        if risen & FEATURES_OK != 0 && !self.features_acceptable() {
            // The driver reads the bit back and sees that it did not stick (3.1.1, step 6).
            risen &= !FEATURES_OK;
        }
        if risen & DRIVER_OK != 0 && (self.status | risen) & FEATURES_OK == 0 {
            risen &= !DRIVER_OK;
        }
        self.status |= risen;
        match risen {
            _ if risen & FAILED != 0 => Change::Failed,
            _ if self.status & FAILED != 0 => Change::Nothing,
            _ if risen & DRIVER_OK != 0 => Change::DriverOk,
            _ => Change::Nothing,
        }
    }

    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.device_features == 0
            && self.driver_features & (1 << VIRTIO_F_VERSION_1) != 0
    }

    fn write_queue(&mut self, at: u64, value: u64) -> Change {
        let vector = self.valid_vector(value as u16);
        let live = self.status & DRIVER_OK != 0;
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else {
            return Change::Nothing;
        };
        if at == QUEUE_VECTOR {
            queue.vector = vector;
            return Change::QueueVector;
        }
        // An enabled queue is not changed any more, and none is added to a device that runs (4.1.4.3.2).
        if queue.enabled || live {
            return Change::Nothing;
        }
        match at {
            QUEUE_SIZE => queue.settings.size = value as u16,
            QUEUE_ENABLE => queue.enabled = value == 1,
            QUEUE_DESCRIPTORS => queue.settings.descriptors = value,
            QUEUE_AVAILABLE => queue.settings.available = value,
            QUEUE_USED => queue.settings.used = value,
            _ => {}
        }
        Change::Nothing
    }

    fn valid_vector(&self, vector: u16) -> u16 {
        if vector < self.vectors { vector } else { NO_VECTOR }
    }

    /// The registers that a write of `data` at `offset` touches, each with its new value. Bytes of a register that
    /// the write does not cover keep their value.
    pub fn merge(&self, at: u64, width: u64, offset: u64, data: &[u8]) -> u64 {
        let mut bytes = self.register(at).to_le_bytes();
        for (i, byte) in bytes.iter_mut().take(width as usize).enumerate() {
            if let Some(index) = (at + i as u64).checked_sub(offset)
                && let Some(value) = data.get(index as usize)
            {
                *byte = *value;
            }
        }
        u64::from_le_bytes(bytes)
    }
}

impl QueueRegisters {
    fn new(max_size: u16) -> Self {
        let settings = QueueSettings {
            size: max_size,
            ..QueueSettings::default()
        };
        Self {
            max_size,
            settings,
            vector: NO_VECTOR,
            enabled: false,
        }
    }
}

/// Offset and width of the registers that an access touches.
pub(crate) fn touched(offset: u64, len: usize) -> impl Iterator<Item = (u64, u64)> {
    let end = offset.saturating_add(len as u64);
    REGISTERS
        .into_iter()
        .filter(move |(at, width)| *at < end && at + width > offset)
}

fn half(features: u64, select: u32) -> u64 {
    match select {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OFFERED: u64 = 1 << VIRTIO_F_VERSION_1 | 0b101;

    fn config() -> CommonConfig {
        CommonConfig::new(OFFERED, &[256, 64], 3)
    }

    fn write(config: &mut CommonConfig, offset: u64, data: &[u8]) -> Vec<Change> {
        let registers: Vec<_> = touched(offset, data.len()).collect();
        registers
            .into_iter()
            .map(|(at, width)| {
                let value = config.merge(at, width, offset, data);
                config.write(at, value)
            })
            .collect()
    }

    fn negotiate(config: &mut CommonConfig, features: u64) {
        for select in 0..2u32 {
            write(config, DRIVER_FEATURE_SELECT, &select.to_le_bytes());
            write(
                config,
                DRIVER_FEATURE,
                &((features >> (32 * select)) as u32).to_le_bytes(),
            );
        }
        write(config, STATUS, &[0x0b]);
    }

    #[test]
    fn features_that_were_not_offered_do_not_stick() {
        for (features, accepted) in [(OFFERED, true), (OFFERED | 2, false), (5, false), (1 << 32, true)] {
            let mut config = config();
            negotiate(&mut config, features);
            assert_eq!(config.status & FEATURES_OK != 0, accepted, "{features:#x}");
            assert_eq!(
                write(&mut config, STATUS, &[0x0f])[0] == Change::DriverOk,
                accepted
            );
        }
    }

    #[test]
    fn an_address_may_be_written_in_halves_or_at_once() {
        let mut config = config();
        write(&mut config, QUEUE_SELECT, &[1, 0]);
        write(&mut config, QUEUE_DESCRIPTORS, &0x1000u32.to_le_bytes());
        write(&mut config, QUEUE_DESCRIPTORS + 4, &0x12u32.to_le_bytes());
        write(&mut config, QUEUE_USED, &0x12_3456_7890u64.to_le_bytes());
        let settings = config.queues[1].settings;
        assert_eq!(
            (settings.descriptors, settings.used),
            (0x12_0000_1000, 0x12_3456_7890)
        );
        write(&mut config, QUEUE_ENABLE, &[1, 0]);
        write(&mut config, QUEUE_DESCRIPTORS, &[0; 8]);
        assert_eq!(
            config.queues[1].settings.descriptors, 0x12_0000_1000,
            "an enabled queue stays"
        );
        assert_eq!(config.queues[0].settings.descriptors, 0);
    }

    #[test]
    fn a_vector_that_does_not_exist_reads_back_as_none() {
        let mut config = config();
        write(&mut config, CONFIG_VECTOR, &[2, 0]);
        assert_eq!(config.config_vector, 2);
        write(&mut config, CONFIG_VECTOR, &[3, 0]);
        assert_eq!(config.config_vector, NO_VECTOR);
        write(&mut config, QUEUE_SELECT, &[9, 0]);
        let mut data = [0; 4];
        config.read(QUEUE_SIZE, &mut data, 0, 0);
        assert_eq!(
            data,
            [0, 0, 0xff, 0xff],
            "a queue that does not exist has size 0 and no vector"
        );
    }

    proptest! {
        #[test]
        fn any_access_keeps_the_rules(ops in proptest::collection::vec((0u64..0x48, 1usize..9, any::<u64>()), 0..200)) {
            let mut config = config();
            for (offset, width, value) in ops {
                for change in write(&mut config, offset, &value.to_le_bytes()[..width]) {
                    if change == Change::Reset {
                        config.reset();
                    }
                }
                let mut data = [0; 8];
                config.read(offset, &mut data[..width], NEEDS_RESET, 1);
                prop_assert!(config.status & DRIVER_OK == 0 || config.status & FEATURES_OK != 0);
                if config.status & FEATURES_OK != 0 {
                    prop_assert_eq!(config.driver_features & !OFFERED, 0);
                }
                prop_assert!(config.config_vector < 3 || config.config_vector == NO_VECTOR);
            }
        }
    }
}
