//! What can be set of the spanning tree, within the ranges of 802.1D-2004, clauses 17.13 and 17.14.

use crate::Error;
use crate::config::within;

/// Which protocol a bridge speaks (Force Protocol Version, 17.13.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// STP on all ports.
    Stp,
    /// RSTP, and STP on ports where a neighbour speaks only that.
    #[default]
    Rstp,
}

/// A bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeConfig {
    /// Which protocol.
    pub version: Version,
    /// 0 to 61,440 in steps of 4096; the lowest becomes root.
    pub priority: u16,
    /// The 12 bits below the priority, 0 to 4095 (802.1t's system ID extension).
    pub extension: u16,
    /// In seconds, 6 to 40.
    pub max_age: u8,
    /// In seconds, 1 to 10 (2004: 1 to 2 only; older bridges allow more).
    pub hello: u8,
    /// In seconds, 4 to 30.
    pub forward_delay: u8,
    /// BPDUs that a port sends in a second, 1 to 10.
    pub transmit_hold: u8,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            version: Version::Rstp,
            priority: 32_768,
            extension: 0,
            max_age: 20,
            hello: 2,
            forward_delay: 15,
            transmit_hold: 6,
        }
    }
}

impl BridgeConfig {
    pub(crate) fn check(&self) -> Result<(), Error> {
        within("the bridge priority", self.priority.into(), 0, 61_440)?;
        if !self.priority.is_multiple_of(4096) {
            return Err(Error::Step {
                what: "the bridge priority",
                value: self.priority.into(),
                step: 4096,
            });
        }
        within(
            "the extension of the bridge priority",
            self.extension.into(),
            0,
            4095,
        )?;
        within("max age", self.max_age.into(), 6, 40)?;
        within("the hello time", self.hello.into(), 1, 10)?;
        within("the forward delay", self.forward_delay.into(), 4, 30)?;
        within("the transmit hold count", self.transmit_hold.into(), 1, 10)?;
        let fits = 2 * (self.forward_delay - 1) >= self.max_age && self.max_age >= 2 * (self.hello + 1);
        if fits {
            Ok(())
        } else {
            Err(Error::Times {
                max_age: self.max_age,
                hello: self.hello,
                forward_delay: self.forward_delay,
            })
        }
    }
}

/// The cost of a path over a link of `megabits` per second (802.1D-2004, table 17-3).
pub fn path_cost(megabits: u64) -> u32 {
    (20_000_000 / megabits.max(1)).clamp(1, 200_000_000) as u32
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StpPortConfig {
    /// 1 to 200,000,000; see [`path_cost`].
    pub path_cost: u32,
    /// 0 to 240 in steps of 16.
    pub priority: u8,
    /// No bridge is behind the port, so it forwards at once (17.13.1).
    pub admin_edge: bool,
    /// The port finds out whether a bridge is behind it (17.13.3).
    pub auto_edge: bool,
    /// At most one bridge is behind the port (operPointToPointMAC, 6.4.3).
    pub point_to_point: bool,
    /// A BPDU shuts the port.
    pub bpdu_guard: bool,
    /// The port never leads to the root (802.1Q-2005, 13.25.14: restrictedRole).
    pub root_guard: bool,
}

impl Default for StpPortConfig {
    fn default() -> Self {
        Self {
            path_cost: path_cost(10_000),
            priority: 128,
            admin_edge: false,
            auto_edge: true,
            point_to_point: true,
            bpdu_guard: false,
            root_guard: false,
        }
    }
}

impl StpPortConfig {
    pub(crate) fn check(&self) -> Result<(), Error> {
        within("the path cost", self.path_cost.into(), 1, 200_000_000)?;
        within("the port priority", self.priority.into(), 0, 240)?;
        if self.priority.is_multiple_of(16) {
            Ok(())
        } else {
            Err(Error::Step {
                what: "the port priority",
                value: self.priority.into(),
                step: 16,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 802.1D-2004, table 17-3.
    #[test]
    fn costs_of_the_table() {
        let table = [
            (10, 2_000_000),
            (100, 200_000),
            (1000, 20_000),
            (10_000, 2000),
            (100_000, 200),
            (1_000_000, 20),
        ];
        for (megabits, cost) in table {
            assert_eq!(path_cost(megabits), cost);
        }
        assert_eq!((path_cost(0), path_cost(u64::MAX)), (20_000_000, 1));
    }

    /// 802.1D-2004, 17.14, tables 17-1 and 17-2.
    #[test]
    fn settings_out_of_range_are_refused() {
        let good = BridgeConfig::default();
        assert_eq!(good.check(), Ok(()));
        let slow = BridgeConfig {
            max_age: 40,
            forward_delay: 30,
            hello: 10,
            ..good.clone()
        };
        assert_eq!(slow.check(), Ok(()));
        let fast = BridgeConfig {
            max_age: 6,
            forward_delay: 4,
            hello: 2,
            ..good.clone()
        };
        assert_eq!(fast.check(), Ok(()));
        for bad in [
            BridgeConfig {
                priority: 4095,
                ..good.clone()
            },
            BridgeConfig {
                priority: 65_000,
                ..good.clone()
            },
            BridgeConfig {
                extension: 4096,
                ..good.clone()
            },
            BridgeConfig {
                max_age: 5,
                ..good.clone()
            },
            BridgeConfig {
                max_age: 41,
                forward_delay: 30,
                ..good.clone()
            },
            BridgeConfig {
                hello: 0,
                ..good.clone()
            },
            BridgeConfig {
                hello: 10,
                ..good.clone()
            },
            BridgeConfig {
                forward_delay: 3,
                ..good.clone()
            },
            BridgeConfig {
                forward_delay: 10,
                ..good.clone()
            },
            BridgeConfig {
                forward_delay: 255,
                ..good.clone()
            },
            BridgeConfig {
                transmit_hold: 0,
                ..good.clone()
            },
            BridgeConfig {
                transmit_hold: 11,
                ..good
            },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        let port = StpPortConfig::default();
        assert_eq!(port.check(), Ok(()));
        for bad in [
            StpPortConfig {
                path_cost: 0,
                ..port.clone()
            },
            StpPortConfig {
                path_cost: 200_000_001,
                ..port.clone()
            },
            StpPortConfig {
                priority: 8,
                ..port.clone()
            },
            StpPortConfig {
                priority: 255,
                ..port
            },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
