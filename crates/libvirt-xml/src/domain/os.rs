//! What a guest starts with: `<os>`, and `<sysinfo>`.

use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::value::{attribute, is_yes};
use crate::{Defaults, Error};

const ROWS: &[Row] = &[
    honoured("os@firmware", "efi|bios", "firmware is chosen for the guest"),
    honoured("os/type", "hvm", ""),
    refused("os/type", "", "only full virtualization (hvm) is there"),
    honoured("os/type@arch", "x86_64", ""),
    honoured(
        "os/type@arch",
        "i686",
        "an x86-64 machine runs 32-bit guests; given back as x86_64",
    ),
    refused("os/type@arch", "", "only x86_64 guests run here"),
    honoured(
        "os/type@machine",
        "q35|ostler-q35-*",
        "a guest keeps its version for life",
    ),
    honoured(
        "os/type@machine",
        "pc-q35-*",
        "QEMU's name for the chipset; taken as our newest version of it",
    ),
    refused("os/type@machine", "", "only the q35 platform is there"),
    honoured(
        "os/firmware/feature@{enabled,name}",
        "",
        "`secure-boot`, and `enrolled-keys` with it",
    ),
    honoured("os/loader", "", "the firmware's image"),
    honoured("os/loader@readonly", "yes|no", ""),
    honoured("os/loader@type", "rom|pflash", ""),
    honoured(
        "os/loader@secure",
        "yes|no",
        "with system management mode, where the accelerator has it; not run on KVM yet",
    ),
    honoured(
        "os/loader@stateless",
        "yes|no",
        "changes of the variables end with the guest",
    ),
    honoured("os/nvram", "", "the store of the firmware's variables"),
    honoured("os/nvram@template", "", "what a new store begins as"),
    honoured("os/nvram@type", "file", ""),
    refused("os/nvram@type", "", "the store is a file"),
    honoured("os/nvram/source@file", "", ""),
    honoured("os/kernel", "", ""),
    honoured("os/initrd", "", ""),
    honoured("os/cmdline", "", ""),
    refused("os/dtb", "", "x86 guests have no device tree"),
    honoured(
        "os/boot@dev",
        "hd|cdrom|network|fd",
        "the old way to order what the guest boots from",
    ),
    honoured(
        "os/bootmenu@{enable,timeout}",
        "",
        "a menu of the firmware; milliseconds",
    ),
    kept(
        "os/smbios@mode",
        "emulate|host|sysinfo",
        "there are no SMBIOS tables to change",
    ),
    kept("os/bios@{useserial,rebootTimeout}", "", "settings of SeaBIOS"),
    refused("os/acpi", "", "tables of a guest's owner are not added"),
    refused(
        "os/{init,initarg,initenv,initdir,inituser,initgroup}",
        "",
        "of containers",
    )
    .whole(),
    refused("os/root", "", "of another hypervisor"),
    kept("sysinfo", "", "SMBIOS texts are not shown to the guest").whole(),
];

pub(crate) const FAMILY: Family = Family::root("What it starts with", ROWS);

/// What a guest starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Os {
    /// The version of the platform, `ostler-q35-1`.
    pub machine: String,
    /// A kernel, with which there is no firmware.
    pub kernel: Option<Kernel>,
    /// Firmware.
    pub firmware: Firmware,
    /// `<boot dev>` in order. Devices have orders of their own instead ([`crate::domain::Disk::boot_order`]).
    pub boot: Vec<BootDevice>,
    /// How long a boot menu is shown, in milliseconds; `None` for no menu.
    pub menu: Option<u16>,
}

/// A kernel to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Path of the image.
    pub kernel: String,
    /// Path of the initial RAM disk.
    pub initrd: Option<String>,
    /// Its command line.
    pub command_line: String,
}

/// Which firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// The host's BIOS.
    Bios,
    /// The host's UEFI, with a store of variables.
    Efi {
        /// Where the store is, if it has been said.
        nvram: Option<Nvram>,
        /// Whether it is the one with secure boot, and the usual keys.
        secure: bool,
    },
    /// This image.
    Image {
        /// Path of it.
        path: String,
        /// Whether it is flash (`pflash`), or a ROM.
        flash: bool,
        /// Whether it needs system management mode.
        secure: bool,
        /// Whether changes of its variables end with the guest.
        stateless: bool,
        /// The store of its variables.
        nvram: Option<Nvram>,
    },
}

/// A store of variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nvram {
    /// Path of it; `None` for one that is made.
    pub path: Option<String>,
    /// Path of what a new one begins as.
    pub template: Option<String>,
}

/// A kind of device to boot from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootDevice {
    /// The first disk.
    Disk,
    /// The first CD-ROM drive.
    Cdrom,
    /// The first card.
    Network,
    /// The first floppy drive, which there is none of.
    Floppy,
}

/// Architecture and platform; the first disk to boot from, where nothing is said.
pub(crate) fn fill(root: &mut Element, defaults: &Defaults) {
    let by_device = root
        .child("devices")
        .is_some_and(|devices| devices.elements().any(|d| d.child("boot").is_some()));
    let os = root.child_or_new("os");
    let kind = os.child_or_new("type");
    kind.set("arch", "x86_64");
    if !kind
        .get("machine")
        .is_some_and(|machine| machine.starts_with("ostler-"))
    {
        kind.set("machine", &*defaults.machine);
    }
    if kind.text().is_empty() {
        kind.set_text("hvm");
    }
    if let Some(loader) = os.child_mut("loader")
        && !loader.text().is_empty()
    {
        loader.set_default("type", "rom");
    }
    if os.child("boot").is_none() && !by_device {
        os.children
            .push(crate::tree::Node::Element(Element::new("boot").with("dev", "hd")));
    }
}

impl Os {
    pub(crate) fn read(root: &Element) -> Result<Self, Error> {
        let empty = Element::new("os");
        let os = root.child("os").unwrap_or(&empty);
        Ok(Self {
            machine: os.child_get("type", "machine").unwrap_or_default().to_owned(),
            kernel: kernel(os)?,
            firmware: firmware(os)?,
            boot: os
                .all("boot")
                .filter_map(|boot| boot_device(boot.get("dev")?))
                .collect(),
            menu: menu(os)?,
        })
    }
}

fn kernel(os: &Element) -> Result<Option<Kernel>, Error> {
    let Some(kernel) = os.child_text("kernel") else {
        if os.child("initrd").or(os.child("cmdline")).is_some() {
            return Err(Error::Unsupported(
                "initrd and cmdline need a kernel in <os>".into(),
            ));
        }
        return Ok(None);
    };
    Ok(Some(Kernel {
        kernel,
        initrd: os.child_text("initrd"),
        command_line: os.child_text("cmdline").unwrap_or_default(),
    }))
}

/// Whether firmware with secure boot is asked for. It has the usual keys; without them it is chosen by its path.
fn asks_for_secure_boot(os: &Element) -> Result<bool, Error> {
    let mut secure = is_yes(os.child_get("loader", "secure"));
    let features = os.child("firmware").into_iter();
    for feature in features.flat_map(|firmware| firmware.all("feature")) {
        match (feature.get("name"), is_yes(feature.get("enabled"))) {
            (Some("secure-boot"), enabled) => secure |= enabled,
            (Some("enrolled-keys"), true) | (_, false) => {}
            (name, true) => {
                return Err(Error::Unsupported(format!(
                    "firmware with {} is refused: it can have secure-boot and enrolled-keys (line {})",
                    crate::error::shorten(name.unwrap_or("a feature")),
                    feature.line
                )));
            }
        }
    }
    Ok(secure)
}

fn firmware(os: &Element) -> Result<Firmware, Error> {
    let secure = asks_for_secure_boot(os)?;
    let nvram = os.child("nvram").map(|nvram| Nvram {
        path: nvram
            .child_get("source", "file")
            .map(str::to_owned)
            .or(Some(nvram.text()).filter(|t| !t.is_empty())),
        template: nvram.get("template").map(str::to_owned),
    });
    let loader = os.child("loader");
    Ok(
        match (
            loader.map(Element::text).filter(|path| !path.is_empty()),
            os.get("firmware"),
        ) {
            (Some(path), _) => Firmware::Image {
                path,
                flash: loader.and_then(|l| l.get("type")) == Some("pflash"),
                secure,
                stateless: is_yes(loader.and_then(|l| l.get("stateless"))),
                nvram,
            },
            (None, Some("efi")) => Firmware::Efi { nvram, secure },
            (None, _) if secure => {
                return Err(Error::Unsupported(
                    "secure boot needs <os firmware='efi'>, or a loader".into(),
                ));
            }
            (None, _) => Firmware::Bios,
        },
    )
}

fn boot_device(name: &str) -> Option<BootDevice> {
    Some(match name {
        "hd" => BootDevice::Disk,
        "cdrom" => BootDevice::Cdrom,
        "network" => BootDevice::Network,
        "fd" => BootDevice::Floppy,
        _ => return None,
    })
}

fn menu(os: &Element) -> Result<Option<u16>, Error> {
    match os.child("bootmenu").filter(|menu| is_yes(menu.get("enable"))) {
        Some(menu) => Ok(Some(attribute(menu, "timeout")?.unwrap_or(3000))),
        None => Ok(None),
    }
}
