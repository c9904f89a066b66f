use super::*;

pub(crate) fn kernel(slot: u32, command_line: &str) -> BootSpec {
    BootSpec::Kernel(KernelSpec {
        kernel: Slot(slot),
        initrd: None,
        command_line: command_line.into(),
    })
}

fn firmware(code: u32, variables: u32, debug: u32) -> BootSpec {
    BootSpec::Firmware(FirmwareSpec {
        code: Slot(code),
        variables: Some(VariablesSpec {
            file: Slot(variables),
            kept: true,
        }),
        smm: false,
        boot_order: Vec::new(),
        boot_menu: Some(2000),
        debug: ConsoleSpec::File { file: Slot(debug) },
    })
}

pub(crate) fn spec() -> GuestSpec {
    GuestSpec {
        version: SPEC_VERSION,
        name: "guest".into(),
        machine: default_machine(),
        accelerator: AcceleratorSpec::Soft {
            engine: SoftEngine::Translator,
        },
        cpu_model: "max".into(),
        cpus: 1,
        max_cpus: None,
        memory: 512 << 20,
        huge_pages: None,
        max_memory: None,
        boot: kernel(0, ""),
        disks: Vec::new(),
        nets: Vec::new(),
        display: None,
        serial: ConsoleSpec::None,
        console: ConsoleSpec::None,
        channels: Vec::new(),
        rngs: 1,
        balloon: None,
        vsock: None,
        shares: Vec::new(),
        pmem: Vec::new(),
        pci: None,
        watchdog: None,
        generation_id: None,
        rtc_offset: 0,
        suspend: false,
        debug_exit: false,
        test_device: false,
        on_reset: OnReset::Restart,
        ends_with_parent: true,
        control: None,
        gdb: None,
    }
}

#[test]
fn a_good_specification_survives_json() {
    let mut good = spec();
    good.disks.push(DiskSpec {
        file: Some(Slot(1)),
        format: DiskFormat::Raw,
        bus: DiskBus::Virtio,
        device: DiskDevice::Disk,
        readonly: true,
        serial: "disk0".into(),
    });
    good.nets.push(NetSpec {
        model: NetModel::E1000e,
        backend: NetBackend::Tap {
            queues: vec![Slot(2)],
            vhost: vec![],
            mtu: Some(1500),
            whole: true,
        },
        mac: "52:54:00:01:02:03".parse().unwrap(),
    });
    good.display = Some(DisplaySpec {
        rom: Some(Slot(1)),
        plain: false,
    });
    good.balloon = Some(BalloonSpec {
        deflate_on_oom: true,
        free_page_reporting: false,
    });
    for action in WatchdogAction::ALL {
        assert_eq!(serde_json::to_value(action).unwrap(), action.name());
        assert_eq!(WatchdogAction::from_name(action.name()), Some(action));
    }
    good.channels.push(ChannelSpec {
        name: "org.qemu.guest_agent.0".into(),
        leads_to: ConsoleSpec::Socket { listener: Slot(2) },
    });
    good.vsock = Some(vsock(u32::MAX - 1, 1));
    good.shares = vec![share("src", 1), share("\u{e9}t\u{e9}", 2)];
    good.pmem = vec![pmem(2 << 20, 2), pmem(MAX_PMEM, 0)];
    good.generation_id = Some(Guid([7; 16]));
    good.suspend = true;
    good.watchdog = Some(WatchdogAction::InjectNmi);
    for boot in [kernel(0, "quiet"), firmware(0, 1, 2)] {
        good.boot = boot;
        good.validate(3).unwrap();
        let text = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<GuestSpec>(&text).unwrap(), good);
    }
}

#[test]
fn only_a_cdrom_drive_may_be_empty() {
    let mut empty = spec();
    empty.disks = drives(1, DiskBus::Sata);
    empty.disks[0].device = DiskDevice::Cdrom;
    let mut value = serde_json::to_value(&empty).unwrap();
    // As specifications have always had it.
    assert_eq!(value["disks"][0]["file"], 0);
    value["disks"][0].as_object_mut().unwrap().remove("file");
    let read: GuestSpec = serde_json::from_value(value).unwrap();
    empty.disks[0].file = None;
    assert_eq!(read, empty);
    empty.validate(1).unwrap();
    let text = serde_json::to_string(&empty).unwrap();
    assert_eq!(serde_json::from_str::<GuestSpec>(&text).unwrap(), empty);
}

fn channel(name: &str) -> ChannelSpec {
    ChannelSpec {
        name: name.into(),
        leads_to: ConsoleSpec::None,
    }
}

fn boot_from(spec: &mut GuestSpec, order: &[u32]) {
    if let BootSpec::Firmware(firmware) = &mut spec.boot {
        firmware.boot_order = order.to_vec();
    }
}

fn vsock(cid: u32, plug: u32) -> VsockSpec {
    VsockSpec {
        cid,
        listener: Slot(0),
        plug: Some(Slot(plug)),
    }
}

fn pmem(size: u64, file: u32) -> PmemSpec {
    PmemSpec {
        file: Slot(file),
        size,
        readonly: file == 0,
    }
}

fn share(tag: &str, plug: u32) -> ShareSpec {
    ShareSpec {
        tag: tag.into(),
        readonly: false,
        plug: Slot(plug),
    }
}

pub(crate) fn drives(count: usize, bus: DiskBus) -> Vec<DiskSpec> {
    let drive = DiskSpec {
        file: Some(Slot(0)),
        format: DiskFormat::Raw,
        bus,
        device: DiskDevice::Disk,
        readonly: true,
        serial: String::new(),
    };
    vec![drive; count]
}

#[test]
fn each_limit_is_kept() {
    type Spoil = fn(&mut GuestSpec);
    let spoils: &[Spoil] = &[
        |s| s.version = 2,
        |s| s.name.clear(),
        |s| s.name = "a/b".into(),
        |s| s.name = "x".repeat(MAX_NAME + 1),
        |s| s.cpus = 0,
        |s| s.cpus = 1000,
        |s| (s.cpus, s.max_cpus) = (2, Some(1)),
        |s| s.max_cpus = Some(MAX_CPUS + 1),
        |s| s.huge_pages = Some(3 << 20),
        |s| s.memory = 1 << 20,
        |s| s.memory += 1,
        |s| (s.huge_pages, s.max_memory) = (Some(0), Some(s.memory + (2 << 20))),
        |s| s.max_memory = Some(s.memory),
        |s| s.max_memory = Some(s.memory + (1 << 20)),
        |s| s.max_memory = Some(s.memory + MAX_MORE_MEMORY + (2 << 20)),
        |s| {
            s.disks = drives(MAX_DEVICES, DiskBus::Virtio);
            s.max_memory = Some(1 << 30);
        },
        |s| s.pmem = vec![pmem(0, 0)],
        |s| s.pmem = vec![pmem(1 << 20, 0)],
        |s| s.pmem = vec![pmem(MAX_PMEM + (2 << 20), 0)],
        |s| s.pmem = vec![pmem(2 << 20, 1)],
        |s| s.pmem = vec![pmem(2 << 20, 0); MAX_DEVICES + 1],
        |s| s.boot = kernel(0, "a\0b"),
        |s| s.boot = kernel(1, ""),
        |s| s.boot = firmware(1, 0, 0),
        |s| s.boot = firmware(0, 1, 0),
        |s| s.boot = firmware(0, 0, 1),
        |s| s.control = Some(Slot(u32::MAX)),
        |s| {
            s.gdb = Some(GdbSpec {
                listener: Slot(7),
                wait: true,
            });
        },
        |s| s.serial = ConsoleSpec::File { file: Slot(9) },
        |s| {
            s.channels = vec![channel("a"), channel("a")];
        },
        |s| s.channels = vec![channel("")],
        |s| s.channels = vec![channel("a\n")],
        |s| s.channels = vec![channel(&"x".repeat(MAX_CHANNEL_NAME + 1))],
        |s| s.channels = (0..=MAX_CHANNELS).map(|n| channel(&n.to_string())).collect(),
        |s| {
            s.channels = vec![channel("a")];
            s.channels[0].leads_to = ConsoleSpec::Socket { listener: Slot(9) };
        },
        |s| {
            s.boot = firmware(0, 0, 0);
            boot_from(s, &[0]);
        },
        |s| {
            s.boot = firmware(0, 0, 0);
            s.disks = drives(2, DiskBus::Sata);
            boot_from(s, &[1, 1]);
        },
        |s| {
            s.disks = drives(1, DiskBus::Sata);
            s.disks[0].file = None;
        },
        |s| {
            s.display = Some(DisplaySpec {
                rom: Some(Slot(1)),
                plain: false,
            })
        },
        |s| s.vsock = Some(vsock(2, 0)),
        |s| s.vsock = Some(vsock(u32::MAX, 0)),
        |s| s.vsock = Some(vsock(3, 1)),
        |s| s.shares = vec![share("a", 1)],
        |s| s.shares = vec![share("", 0)],
        |s| s.shares = vec![share("a\0", 0)],
        |s| s.shares = vec![share(&"x".repeat(MAX_TAG + 1), 0)],
        |s| s.shares = vec![share("a", 0), share("a", 0)],
        |s| s.shares = (0..=MAX_DEVICES).map(|n| share(&n.to_string(), 0)).collect(),
        |s| {
            s.disks = drives(MAX_DEVICES, DiskBus::Virtio);
            s.vsock = Some(vsock(3, 0));
        },
        |s| s.disks = drives(MAX_SATA_DRIVES + 1, DiskBus::Sata),
        |s| s.disks = drives(MAX_DEVICES + 1, DiskBus::Virtio),
        |s| {
            s.disks = drives(MAX_DEVICES, DiskBus::Virtio);
            s.watchdog = Some(WatchdogAction::None);
        },
        |s| {
            s.disks = drives(1, DiskBus::Virtio);
            s.disks[0].device = DiskDevice::Cdrom;
        },
        |s| {
            s.disks = drives(1, DiskBus::Sata);
            (s.disks[0].device, s.disks[0].readonly) = (DiskDevice::Cdrom, false);
        },
    ];
    spec().validate(1).unwrap();
    let mut most = spec();
    most.disks = drives(MAX_DEVICES, DiskBus::Virtio);
    most.disks.extend(drives(MAX_SATA_DRIVES, DiskBus::Sata));
    most.disks[MAX_DEVICES].device = DiskDevice::Cdrom;
    most.validate(1).unwrap();
    for (number, spoil) in spoils.iter().enumerate() {
        let mut bad = spec();
        spoil(&mut bad);
        assert!(bad.validate(1).is_err(), "spoil {number}");
    }
}

#[test]
fn a_guest_without_a_machine_type_gets_the_first_and_an_unknown_one_is_refused() {
    let mut value = serde_json::to_value(spec()).unwrap();
    assert_eq!(value["machine"], "ostler-q35-1");
    value.as_object_mut().unwrap().remove("machine");
    let named = serde_json::from_value::<GuestSpec>(value.clone()).unwrap();
    assert_eq!(named.machine_type().unwrap(), MachineType::Q35V1);
    for unknown in ["", "q35", "ostler-q35-3"] {
        value["machine"] = unknown.into();
        let bad = serde_json::from_value::<GuestSpec>(value.clone()).unwrap();
        let error = bad.validate(1).unwrap_err().to_string();
        assert!(
            error.contains(&format!(
                "the machine type {unknown:?} is not known; known types: ostler-q35-1, ostler-q35-2"
            )),
            "{error}"
        );
    }
}

#[test]
fn unknown_fields_are_refused() {
    let mut value = serde_json::to_value(spec()).unwrap();
    value["surprise"] = true.into();
    assert!(serde_json::from_value::<GuestSpec>(value).is_err());
}
