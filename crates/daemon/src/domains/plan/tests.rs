use super::*;
use ostler_vmm::spec::PciPlace;
use std::path::Path;

const XML: &str = "<domain type='qemu'><name>web</name><memory unit='MiB'>256</memory><vcpu>2</vcpu>\
    <os><type arch='x86_64'>hvm</type><kernel>/k</kernel><initrd>/i</initrd><cmdline>a=1 b</cmdline></os>\
    <on_reboot>destroy</on_reboot><devices><emulator>/bin/x</emulator>\
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/d'/>\
    <target dev='vda' bus='virtio'/></disk><serial type='pty'/><console type='pty'/></devices></domain>";

fn plan(xml: &str) -> Result<Plan, String> {
    Plan::of(&Definition::read(xml).unwrap()).map_err(|error| {
        assert_eq!(error.code, Code::ConfigUnsupported);
        error.detail
    })
}

fn with_devices(devices: &str) -> Result<Plan, String> {
    plan(&XML.replacen("<devices>", &format!("<devices>{devices}"), 1))
}

#[test]
fn a_definition_becomes_a_plan() {
    let plan = plan(XML).unwrap();
    assert_eq!((plan.kvm, plan.memory, plan.vcpus), (false, 256 << 20, 2));
    assert_eq!(
        (plan.cpu_model.as_str(), plan.machine.as_str()),
        ("max", "ostler-q35-2")
    );
    assert_eq!((plan.on_reset, plan.rngs.len()), (OnReset::End, 0));
    assert_eq!(plan.streams.serial, Some(Stream::Clients));
    assert_eq!(plan.streams.console, None);
    assert!(
        plan.balloon.is_some(),
        "as with libvirt, unless its owner says none"
    );
    let Boot::Kernel {
        initrd, command_line, ..
    } = &plan.boot
    else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (initrd.as_deref(), command_line.as_str()),
        (Some(Path::new("/i")), "a=1 b")
    );
    let disk = &plan.disks[0];
    assert_eq!(
        (disk.target.as_str(), disk.sata, disk.direct),
        ("vda", false, false)
    );
    assert_eq!(
        (disk.alias.as_str(), disk.serial.as_str()),
        ("virtio-disk0", "vda")
    );
}

#[test]
fn boot_orders_name_disks_where_they_are() {
    let kernel = "<kernel>/k</kernel><initrd>/i</initrd><cmdline>a=1 b</cmdline>";
    let more = "<disk device='cdrom'><source file='/c'/><target dev='sdb'/></disk>\
                <disk><source file='/s'/><target dev='sda'/></disk>";
    let order = |os: &str, vda: &str| {
        let xml = XML
            .replacen(kernel, os, 1)
            .replacen("<devices>", &format!("<devices>{more}"), 1);
        let xml = xml.replacen(
            "<target dev='vda' bus='virtio'/>",
            &format!("<target dev='vda'/>{vda}"),
            1,
        );
        let plan = plan(&xml).unwrap();
        let targets: Vec<&str> = plan.disks.iter().map(|disk| disk.target.as_str()).collect();
        assert_eq!(targets, ["vda", "sda", "sdb"]);
        match plan.boot {
            Boot::Firmware { order, menu, .. } => (order, menu),
            Boot::Kernel { .. } => panic!("a kernel"),
        }
    };
    assert_eq!(order("", "").0.len(), 2, "disks, where nothing is said");
    assert_eq!(order("<boot dev='cdrom'/><boot dev='network'/>", "").0, [2]);
    assert_eq!(order("<boot dev='cdrom'/><boot dev='hd'/>", "").0[0], 2);
    assert_eq!(
        order("<bootmenu enable='yes' timeout='700'/>", "<boot order='1'/>"),
        (vec![0], Some(700))
    );
    let net = XML.replacen(kernel, "<boot dev='network'/>", 1);
    assert!(plan(&net).unwrap_err().contains("network"));
}

#[test]
fn a_cdrom_drive_may_be_empty() {
    let drive = "<disk type='block' device='cdrom'><target dev='sda' tray='open'/></disk>";
    let xml = XML.replacen("<devices>", &format!("<devices>{drive}"), 1);
    let plan = plan(&xml).unwrap();
    let disk = plan.disks.iter().find(|disk| disk.target == "sda").unwrap();
    assert_eq!(
        (&disk.image, disk.sata, disk.cdrom, disk.readonly),
        (&None, true, true, true)
    );
}

#[test]
fn firmware_and_its_variables() {
    let kernel = "<kernel>/k</kernel><initrd>/i</initrd><cmdline>a=1 b</cmdline>";
    let firmware = |os: &str, attribute: &str| {
        let xml = XML
            .replacen(kernel, os, 1)
            .replacen("<os>", &format!("<os{attribute}>"), 1);
        match plan(&xml).unwrap().boot {
            Boot::Firmware { choice, store, .. } => (choice, store),
            Boot::Kernel { .. } => panic!("a kernel"),
        }
    };
    use ostler_launch::firmware::Choice;
    assert_eq!(firmware("", ""), (Choice::Bios, Store::Nowhere));
    assert_eq!(firmware("", " firmware='efi'"), (Choice::Uefi, Store::Own));
    let secure = "<firmware><feature enabled='yes' name='secure-boot'/></firmware>";
    assert_eq!(
        firmware(secure, " firmware='efi'"),
        (Choice::SecureUefi, Store::Own)
    );
    assert_eq!(
        firmware("<loader type='pflash' secure='yes'>/c</loader>", ""),
        (Choice::FileWithSmm("/c".into()), Store::Own)
    );
    let image = || Choice::File("/c".into());
    assert_eq!(firmware("<loader>/c</loader>", ""), (image(), Store::Nowhere));
    assert_eq!(
        firmware("<loader type='pflash'>/c</loader>", ""),
        (image(), Store::Own)
    );
    assert_eq!(
        firmware(
            "<loader type='pflash'>/c</loader><nvram template='/t'>/v</nvram>",
            ""
        ),
        (image(), Store::File("/v".into()))
    );
    assert_eq!(
        firmware("<loader type='pflash' stateless='yes'>/c</loader>", ""),
        (image(), Store::Nowhere)
    );
}

#[test]
fn cards_and_their_forwarded_ports() {
    let user = "<interface type='user'><portForward proto='tcp'><range start='2200' end='2201' to='22'/>\
                </portForward></interface>";
    let cards = with_devices(user).unwrap().cards;
    let CardSource::User { forwards } = &cards[0].source else {
        panic!("{cards:?}")
    };
    let pairs: Vec<_> = forwards
        .iter()
        .map(|forward| (forward.listen.port(), forward.port))
        .collect();
    assert_eq!(pairs, [(2200, 22), (2201, 23)]);
    let tap = "<interface type='ethernet'><target dev='tap7' managed='no'/><link state='down'/></interface>";
    let cards = with_devices(tap).unwrap().cards;
    assert!(!cards[0].link);
    assert_eq!(
        cards[0].source,
        CardSource::Ethernet {
            target: Some("tap7".into()),
            unmanaged: true
        }
    );
}

#[test]
fn what_a_guest_lacks_is_named() {
    for (devices, says) in [
        (
            "<disk><driver name='qemu' cache='writethrough'/><source file='/e'/><target dev='vdb'/></disk>",
            "'vdb'",
        ),
        (
            "<disk><source file='/e'/><target dev='vdb'/><shareable/></disk>",
            "<shareable>",
        ),
        (
            "<disk><source file='/e'/><target dev='vdb'/><iotune><total_iops_sec>9</total_iops_sec></iotune></disk>",
            "<iotune>",
        ),
        ("<serial type='pty'/>", "one <serial>"),
        (
            "<serial type='tcp'><source mode='bind' host='h' service='1'/><target port='0'/></serial>",
            "<serial>",
        ),
        ("<channel type='pty'><target type='virtio'/></channel>", "name"),
        ("<vsock><cid auto='no' address='4294967295'/></vsock>", "CID"),
        (
            "<filesystem><driver type='virtiofs'/><source socket='/s'/></filesystem>",
            "tag",
        ),
        ("<rng><rate bytes='9'/><backend model='random'/></rng>", "<rate>"),
        ("<watchdog model='itco'/>", "itco"),
        ("<watchdog model='i6300esb' action='dump'/>", "dump"),
        ("<interface type='user'><mtu size='9000'/></interface>", "<mtu>"),
        (
            "<interface type='user'><bandwidth><inbound average='9'/></bandwidth></interface>",
            "<bandwidth>",
        ),
        (
            "<interface type='bridge'><source bridge='b'/><virtualport type='openvswitch'/></interface>",
            "Open vSwitch",
        ),
    ] {
        let why = with_devices(devices).unwrap_err();
        assert!(why.contains(says), "{says}: {why}");
    }
    for (from, to, says) in [
        ("<on_reboot>destroy", "<on_reboot>preserve", "<on_reboot>"),
        (
            "<on_reboot>destroy</on_reboot>",
            "<on_crash>coredump-destroy</on_crash>",
            "coredump",
        ),
        (
            "<on_reboot>destroy</on_reboot>",
            "<memoryBacking><locked/></memoryBacking>",
            "<locked>",
        ),
        (
            "<on_reboot>destroy</on_reboot>",
            "<cpu><model>486</model></cpu>",
            "'486'",
        ),
        (
            "<on_reboot>destroy</on_reboot>",
            "<cpu mode='maximum'><topology sockets='2' cores='1' threads='1'/></cpu>",
            "<topology>",
        ),
        (
            "<on_reboot>destroy</on_reboot>",
            "<cpu mode='maximum'><feature policy='require' name='vmx'/></cpu>",
            "'vmx'",
        ),
        (
            "<devices>",
            "<currentMemory>9</currentMemory><devices><memballoon model='none'/>",
            "<currentMemory>",
        ),
    ] {
        let why = plan(&XML.replacen(from, to, 1)).unwrap_err();
        assert!(why.contains(says), "{says}: {why}");
    }
}

#[test]
fn cpus_and_pages() {
    let with = |vcpu: &str| plan(&XML.replacen("<vcpu>2</vcpu>", vcpu, 1)).unwrap();
    let cpus = |vcpu: &str| {
        let plan = with(vcpu);
        (plan.vcpus, plan.max_vcpus, plan.later_vcpus)
    };
    assert_eq!(cpus("<vcpu>2</vcpu>"), (2, None, vec![]));
    assert_eq!(cpus("<vcpu current='1'>4</vcpu>"), (1, Some(4), vec![]));
    let gap = "<vcpu>4</vcpu><vcpus><vcpu id='0' enabled='yes'/><vcpu id='2' enabled='yes'/></vcpus>";
    assert_eq!(cpus(gap), (1, Some(4), vec![2]));
    let pages = |pages: &str| with(&format!("<memoryBacking>{pages}</memoryBacking>")).huge_pages;
    assert_eq!((pages(""), pages("<hugepages/>")), (None, Some(0)));
    assert_eq!(
        pages("<hugepages><page size='2' unit='MiB'/></hugepages>"),
        Some(2 << 20)
    );
}

#[test]
fn a_display_is_what_is_asked_for_by_its_model() {
    let vga = Some(DisplayModel::Vga);
    for (video, has) in [
        ("", None),
        ("<video/>", vga),
        (
            "<video><model type='vga' vram='16384' heads='1' primary='yes'/></video>",
            vga,
        ),
        ("<video><model type='bochs'/></video>", Some(DisplayModel::Plain)),
        ("<video><model type='none'/></video>", None),
        (
            "<video><model type='qxl'/></video><video><model type='virtio'/></video>",
            None,
        ),
        (
            "<video><model type='vga'/></video><video><model type='qxl'/></video>",
            vga,
        ),
    ] {
        assert_eq!(with_devices(video).unwrap().display, has, "{video}");
    }
    let two = "<video><model type='vga'/></video><video><model type='bochs'/></video>";
    assert!(with_devices(two).unwrap_err().contains("one display"));
}

#[test]
fn folders_and_sockets_of_the_host() {
    let plan = with_devices(
        "<filesystem type='mount' accessmode='passthrough'><driver type='virtiofs'/><source dir='/s'/><target dir='t'/></filesystem>\
         <filesystem><driver type='virtiofs'/><source socket='/v'/><target dir='u'/><readonly/></filesystem>\
         <vsock model='virtio'><cid auto='no' address='7'/></vsock>",
    )
    .unwrap();
    let share = |alias: &str, tag: &str, source| Share {
        alias: alias.into(),
        tag: tag.into(),
        readonly: tag == "u",
        source,
    };
    assert_eq!(
        plan.shares,
        [
            share("fs0", "t", ShareSource::Folder("/s".into())),
            share("fs1", "u", ShareSource::Socket("/v".into())),
        ]
    );
    assert_eq!(plan.vsock.unwrap().cid, Some(7));
}

#[test]
fn memory_devices_are_apart_from_what_a_guest_starts_with() {
    let grows = |size: u32, block: u32| {
        format!(
            "<memory model='virtio-mem'><target><size unit='MiB'>{size}</size><block unit='MiB'>{block}</block>\
             <requested unit='MiB'>{block}</requested></target></memory>"
        )
    };
    let file = "<memory model='virtio-pmem' access='shared'><source><path>/p</path></source>\
        <target><size unit='MiB'>64</size></target></memory>";
    let of = |all: u32, devices: &str| {
        let memory =
            format!("<maxMemory slots='2' unit='GiB'>64</maxMemory><memory unit='MiB'>{all}</memory>");
        let xml = XML.replace("<memory unit='MiB'>256</memory>", &memory);
        plan(&xml.replacen("<devices>", &format!("<devices>{devices}"), 1))
    };
    let plan = of(256 + 128 + 64, &format!("{}{file}", grows(128, 4))).unwrap();
    assert_eq!(plan.memory, 256 << 20);
    let device = plan.memory_device.unwrap();
    assert_eq!(
        (device.alias.as_str(), device.size, device.requested),
        ("virtiomem0", 128 << 20, 4 << 20)
    );
    let [file] = &plan.persistent[..] else { panic!() };
    assert_eq!(
        (file.alias.as_str(), file.path.as_path(), file.size, file.readonly),
        ("virtiopmem0", Path::new("/p"), 64 << 20, false)
    );
    // What is larger comes in larger blocks.
    let large = 256 + 4096;
    assert!(of(large, &grows(4096, 4)).is_ok());
    let said = of(large, &grows(4096, 2)).unwrap_err();
    assert!(said.contains("blocks of 4 MiB"), "{said}");
}

/// The same guest with these features and timers, on KVM or not.
fn of_windows(kind: &str, features: &str, clock: &str) -> Result<Plan, String> {
    let more = format!("<features>{features}</features><clock offset='utc'>{clock}</clock><devices>");
    plan(
        &XML.replacen("type='qemu'", &format!("type='{kind}'"), 1)
            .replacen("<devices>", &more, 1),
    )
}

#[test]
fn hypervs_interface_is_shown_on_kvm_as_it_is_asked_for() {
    let features = "<hyperv mode='custom'><relaxed state='on'/><vapic state='on'/><vpindex state='on'/>\
                    <spinlocks state='on' retries='8191'/><synic state='on'/>\
                    <stimer state='on'><direct state='on'/></stimer><ipi state='off'/></hyperv>";
    let clock = "<timer name='hypervclock' present='yes'/>";
    assert_eq!(
        of_windows("kvm", features, clock).unwrap().cpu_model,
        "max,hv-relaxed,hv-vapic,hv-vpindex,hv-synic,hv-stimer,hv-spinlocks=8191,hv-stimer-direct,hv-time"
    );
    assert_eq!(of_windows("kvm", "<hyperv/>", "").unwrap().cpu_model, "max");
    assert_eq!(
        of_windows("kvm", features, "").unwrap_err(),
        "hv-stimer of a CPU model needs hv-time besides"
    );
    let off = "<hyperv><relaxed state='off'/></hyperv>";
    assert_eq!(of_windows("qemu", off, "").unwrap().cpu_model, "max");
    let by_software = of_windows("qemu", features, clock).unwrap();
    assert_eq!(by_software.cpu_model, "max", "as with QEMU's own CPU");
}

/// What virt-install writes for Windows 10.
#[test]
fn a_guest_of_virt_installs_for_windows_starts_at_local_time() {
    let written = include_str!("../../../../libvirt-xml/tests/data/virt-install/windows.xml");
    let Plan { cpu_model, rtc, .. } = plan(written).unwrap();
    assert_eq!(cpu_model, "max,hv-relaxed,hv-vapic,hv-spinlocks=8191,hv-time");
    assert_eq!(rtc, RtcStart::Local);
    let by_software = written.replacen("\"kvm\"", "\"qemu\"", 1);
    assert_eq!(plan(&by_software).unwrap().cpu_model, "max");
}

#[test]
fn the_clock_starts_where_its_definition_says() {
    for (clock, rtc) in [
        ("offset='utc'", RtcStart::Utc),
        ("offset='utc' adjustment='reset'", RtcStart::Utc),
        ("offset='localtime'", RtcStart::Local),
        (
            "offset='timezone' timezone='Asia/Kolkata'",
            RtcStart::Zone("Asia/Kolkata".into()),
        ),
        (
            "offset='variable' adjustment='-3600' basis='utc'",
            RtcStart::Ahead(-3600),
        ),
        (
            "offset='variable' adjustment='60' basis='localtime'",
            RtcStart::AheadOfLocal(60),
        ),
        ("offset='absolute' start='0'", RtcStart::At(0)),
    ] {
        let with = XML.replacen("<devices>", &format!("<clock {clock}/><devices>"), 1);
        assert_eq!(plan(&with).unwrap().rtc, rtc, "{clock}");
    }
}

#[test]
fn what_kvm_alone_has_can_be_required_on_kvm() {
    let with = |kind: &str| {
        let cpu = "<cpu mode='host-passthrough'><feature policy='require' name='svm'/></cpu><devices>";
        plan(
            &XML.replacen("type='qemu'", &format!("type='{kind}'"), 1)
                .replacen("<devices>", cpu, 1),
        )
    };
    assert_eq!(with("kvm").unwrap().cpu_model, "max,+svm");
    assert_eq!(
        with("qemu").unwrap_err(),
        "the CPU feature 'svm' is there on KVM alone: leave it out, or make the domain one of type='kvm'"
    );
}

#[test]
fn devices_are_where_the_definition_says() {
    let address = |bus: u8, slot: u8| format!("<address type='pci' bus='{bus}' slot='{slot}' function='0'/>");
    let port = "<controller type='pci' index='1' model='pcie-root-port'><target port='0x10' hotplug='off'/>\
        <address type='pci' bus='0' slot='2' function='0' multifunction='on'/></controller>";
    let devices = [
        port.to_owned(),
        format!("<interface type='user'>{}</interface>", address(0, 0x10)),
        format!("<interface type='user'>{}</interface>", address(1, 0)),
        format!("<video><model type='vga'/>{}</video>", address(0, 1)),
        "<channel type='unix'><target type='virtio' name='a'/></channel><watchdog model='i6300esb'/>".into(),
        "<disk device='cdrom'><source file='/c'/><target dev='sda'/></disk>".into(),
    ];
    let pci = with_devices(&devices.concat()).unwrap().pci.unwrap();
    let devices: Vec<String> = pci
        .devices
        .iter()
        .map(|(name, place)| format!("{name} {place}"))
        .collect();
    // Disk, balloon and channels have root ports after the one that is written down, the watchdog a slot of its own.
    assert_eq!(devices.len(), 7, "{devices:?}");
    for fixed in [
        "display 00:01.0",
        "net0 00:10.0",
        "net1 01:00.0",
        "watchdog 00:03.0",
    ] {
        assert!(
            devices.iter().any(|device| device == fixed),
            "{fixed}: {devices:?}"
        );
    }
    let ports = pci.ports.unwrap();
    assert_eq!(
        (ports[0].bus, ports[0].place, ports[0].number, ports[0].fixed),
        (1, PciPlace::new(0, 2, 0), 0x10, true)
    );
    // Three for what has no address, four that are free.
    assert_eq!(ports.len(), 1 + 3 + 4);
    assert!(ports[1..].iter().all(|port| !port.fixed && port.place.0.bus == 0));

    let old = XML.replacen("<type arch", "<type machine='ostler-q35-1' arch", 1);
    assert_eq!(plan(&old).unwrap().pci, None);
}
