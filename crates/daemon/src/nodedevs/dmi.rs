//! What the firmware says of the host (SMBIOS), as far as the kernel shows it in /sys/class/dmi/id.

use std::fs;
use std::path::Path;

use ostler_libvirt_xml::node_device::{Capability, NodeDevice};
use ostler_libvirt_xml::tree::{Element, write};

/// The device that is the host itself.
pub const COMPUTER: &str = "computer";
/// The UUID of a host that has none.
const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";

/// What is in `<sysinfo>`: an element, and for each entry its name and the file.
const PARTS: &[(&str, &[(&str, &str)])] = &[
    (
        "bios",
        &[
            ("vendor", "bios_vendor"),
            ("version", "bios_version"),
            ("date", "bios_date"),
            ("release", "bios_release"),
        ],
    ),
    (
        "system",
        &[
            ("manufacturer", "sys_vendor"),
            ("product", "product_name"),
            ("version", "product_version"),
            ("serial", "product_serial"),
            ("uuid", "product_uuid"),
            ("sku", "product_sku"),
            ("family", "product_family"),
        ],
    ),
    (
        "baseBoard",
        &[
            ("manufacturer", "board_vendor"),
            ("product", "board_name"),
            ("version", "board_version"),
            ("serial", "board_serial"),
            ("asset", "board_asset_tag"),
        ],
    ),
    (
        "chassis",
        &[
            ("manufacturer", "chassis_vendor"),
            ("version", "chassis_version"),
            ("serial", "chassis_serial"),
            ("asset", "chassis_asset_tag"),
        ],
    ),
];

/// The text of a file with one line; none if it is not there or empty.
pub fn line(path: &Path) -> Option<String> {
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    let text: String = text.trim().chars().filter(|c| !c.is_control()).collect();
    (!text.is_empty()).then_some(text)
}

/// `<sysinfo>`, if the firmware says anything.
pub fn sysinfo(sys: &Path) -> Option<String> {
    let folder = sys.join("class/dmi/id");
    let mut document = Element::new("sysinfo").with("type", "smbios");
    for (part, entries) in PARTS {
        let mut element = Element::new(part);
        for (name, file) in *entries {
            if let Some(text) = line(&folder.join(file)) {
                element = element.with_child(Element::new("entry").with("name", *name).with_text(text));
            }
        }
        if !element.children.is_empty() {
            document = document.with_child(element);
        }
    }
    (!document.children.is_empty()).then(|| write(&document))
}

/// The host as a device.
pub fn computer(sys: &Path, machine_id: &Path) -> NodeDevice {
    let folder = sys.join("class/dmi/id");
    let text = |file: &str| line(&folder.join(file));
    // What the firmware does not say, the installation may.
    let uuid = text("product_uuid").or_else(|| line(machine_id));
    let uuid = uuid.and_then(|text| crate::uuid::parse(&text));
    NodeDevice {
        name: COMPUTER.into(),
        path: None,
        parent: None,
        driver: None,
        capability: Capability::System {
            hardware: ["sys_vendor", "product_version", "product_serial"].map(text),
            uuid: uuid.map_or(NO_UUID.into(), |uuid| crate::uuid::format(&uuid)),
            firmware: ["bios_vendor", "bios_version", "bios_date"].map(text),
        },
    }
}
