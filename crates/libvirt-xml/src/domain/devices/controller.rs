//! Controllers: `<controller>`.

use super::Common;
use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::{Error, value};

const ROWS: &[Row] = &[
    honoured("@type", "pci|sata|virtio-serial", ""),
    kept("@type", "usb", "there is no USB; what is on it has no effect"),
    kept(
        "@type",
        "scsi|ide|fdc|ccid|isa|nvme",
        "nothing can be connected to it",
    ),
    refused("@type", "xenbus", "of another hypervisor"),
    honoured("@index", "", "given if it is missing"),
    honoured("@model", "pcie-root|pcie-root-port", "of PCI"),
    refused(
        "@model",
        "pci-root|pci-bridge|dmi-to-pci-bridge|pcie-to-pci-bridge|pcie-switch-upstream-port|pcie-switch-downstream-port|pcie-expander-bus|pci-expander-bus",
        "the platform has root ports only",
    ),
    kept("@model", "", "of what is only kept"),
    kept("@{ports,vectors,maxGrantFrames,maxEventChannels}", "", ""),
    kept("master@startport", "", "of USB"),
    kept("driver@{queues,cmd_per_lun,max_sectors,iothread}", "", ""),
    kept("driver/iothreads", "", "").whole(),
    kept("model@name", "", "the root port's kind"),
    honoured("target@port", "", "as the guest reads it of a root port's link"),
    kept("target@chassis", "", "no guest sees it"),
    honoured("target@hotplug", "on|off", ""),
    refused("target@{chassisNr,busNr,index,memReserve}", "", "of bridges"),
    refused("target/node", "", "of bridges"),
    kept("pcihole64", "", "the window is as large as it has to be").whole(),
];

pub(crate) const FAMILY: Family = Family::device("devices/controller", ROWS);

/// A controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// What all devices have.
    pub common: Common,
    /// `pci`, `sata`, `virtio-serial`, or one that is only kept.
    pub kind: String,
    /// Its number among those of its kind; the bus, for PCI.
    pub index: u32,
    /// Its model.
    pub model: Option<String>,
    /// A root port's number, as a guest reads it of its link.
    pub port: u8,
    /// Whether something can be plugged into a root port while the guest runs.
    pub hotplug: bool,
}

impl Controller {
    pub(crate) fn read(controller: &Element) -> Result<Self, Error> {
        let kind = controller
            .get("type")
            .ok_or_else(|| Error::missing(controller.line, "controller", "type"))?;
        let port = match controller.child("target") {
            Some(target) => value::attribute(target, "port")?,
            None => None,
        };
        Ok(Self {
            port: port.unwrap_or(0),
            hotplug: controller.child_get("target", "hotplug") != Some("off"),
            common: Common::read(controller)?,
            kind: kind.to_owned(),
            index: value::attribute(controller, "index")?.unwrap_or(0),
            model: controller.get("model").map(str::to_owned),
        })
    }
}
