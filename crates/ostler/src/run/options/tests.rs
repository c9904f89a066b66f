use ostler_hostnet::MacvtapMode;
use ostler_vmm::spec::{BalloonSpec, DiskBus, DiskFormat, Guid, NetModel, WatchdogAction};

use super::net::TapOption;
use super::*;
use clap::Parser;
use proptest::prelude::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    run: RunArgs,
}

fn parse(words: &[&str]) -> Result<RunArgs, clap::Error> {
    let words = ["run", "--kernel", "k"].iter().chain(words);
    Line::try_parse_from(words).map(|line| line.run)
}

#[test]
fn the_whole_grammar_is_understood() {
    let args = parse(&[
        "--initrd",
        "i",
        "--append",
        "-v quiet",
        "--disk",
        "a.img,format=raw,readonly",
        "--disk",
        "b,c.img",
        "--disk",
        "d.img,bus=sata",
        "--cdrom",
        "e,bus=sata.iso",
        "--net",
        "tap=tap0,mac=52:54:00:12:34:56",
        "--net",
        "socket=/run/s,x",
        "--net",
        "switch=/run/lan,trunk=1:10-20,native=1,port=web,mac=52:54:00:12:34:56",
        "--net",
        "none",
        "--cpus",
        "4",
        "--memory",
        "1G",
        "--cpu",
        "x86-64-v2",
        "--accel",
        "soft",
        "--serial",
        "file=log",
        "--console",
        "socket=con",
        "--control",
        "ctl",
        "--gdb",
        "tcp:127.0.0.1:1234",
        "--gdb-wait",
        "--name",
        "n",
        "--no-reboot",
        "--rng",
        "off",
        "--balloon",
        "on,deflate-on-oom=off",
        "--vsock",
        "cid=3,socket=/run/a,b",
        "--fs",
        "tag=src,dir=/home/me,you",
        "--fs",
        "tag=b,readonly=on,socket=/run/fs",
        "--pmem",
        "m,e",
        "--pmem",
        "n,size=64M,readonly",
        "--watchdog",
        "action=inject-nmi",
        "--vm-generation-id",
        "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87",
    ])
    .unwrap();
    let balloon = BalloonSpec {
        deflate_on_oom: false,
        free_page_reporting: true,
    };
    assert_eq!(args.balloon, BalloonOption(Some(balloon)));
    assert!(matches!(
        args.vm_generation_id,
        Some(GenerationIdOption::Guid(Guid([0x32, ..])))
    ));
    let vsock = VsockOption {
        cid: 3,
        path: "/run/a,b".into(),
    };
    assert_eq!(args.vsock.as_ref(), Some(&vsock));
    assert_eq!(devices::parse_vsock("socket=/run/a,b,cid=3"), Ok(vsock));
    let share = |tag: &str, source| ShareOption {
        tag: tag.into(),
        readonly: tag == "b",
        source,
    };
    let shares = [
        share("src", ShareSource::Folder("/home/me,you".into())),
        share("b", ShareSource::Socket("/run/fs".into())),
    ];
    assert_eq!(args.shares, shares);
    let pmem = [
        PmemOption {
            path: "m,e".into(),
            size: None,
            readonly: false,
        },
        PmemOption {
            path: "n".into(),
            size: Some(64 << 20),
            readonly: true,
        },
    ];
    assert_eq!(args.pmem, pmem);
    assert_eq!(args.watchdog, Some(WatchdogAction::InjectNmi));
    assert_eq!(parse(&[]).unwrap().balloon, BalloonOption(None));
    assert_eq!(args.append, "-v quiet");
    let disk = |path: &str, bus, readonly| DiskOption {
        path: path.into(),
        format: DiskFormat::Raw,
        bus,
        readonly,
        place: None,
    };
    let disks = [
        disk("a.img", DiskBus::Virtio, true),
        disk("b,c.img", DiskBus::Virtio, false),
        disk("d.img", DiskBus::Sata, false),
    ];
    assert_eq!(args.disks, disks);
    assert_eq!(args.cdroms, [PathBuf::from("e,bus=sata.iso")]);
    let mac = Some("52:54:00:12:34:56".parse().unwrap());
    assert_eq!(args.nets[0].model, NetModel::Virtio);
    assert_eq!(
        args.nets[0].net,
        NetOption::Tap(TapOption {
            name: "tap0".into(),
            mac,
            whole: false
        })
    );
    assert_eq!(
        args.nets[1].net,
        NetOption::Socket {
            path: "/run/s,x".into(),
            mac: None
        }
    );
    let net = |option: &str| parse(&["--net", option]).unwrap().nets[0].net.clone();
    let direct = |mode, mac| {
        let over = "eth0".into();
        NetOption::Direct(DirectOption { over, mode, mac })
    };
    assert_eq!(net("direct=eth0"), direct(MacvtapMode::Bridge, None));
    assert_eq!(
        net("direct=eth0,mode=vepa,mac=52:54:00:12:34:56"),
        direct(MacvtapMode::Vepa, mac)
    );
    let at_switch = SwitchOption {
        switch: "/run/lan".into(),
        port: Some("web".into()),
        vlan: None,
        trunk: Some("1,10-20".into()),
        native: Some(1),
        mac,
    };
    assert_eq!(args.nets[2].net, NetOption::Switch(at_switch));
    assert_eq!((args.cpus.now, args.cpus.most), (4, None));
    assert_eq!((args.memory.now, args.memory.most), (1 << 30, None));
    let growing = parse(&["--cpus", "1,max=4", "--memory", "512M,max=2G"]).unwrap();
    assert_eq!((growing.cpus.now, growing.cpus.most), (1, Some(4)));
    assert_eq!(
        (growing.memory.now, growing.memory.most),
        (512 << 20, Some(2 << 30))
    );
    for wrong in [
        ["--cpus", "4,max=2"],
        ["--cpus", "1,most=2"],
        ["--memory", "1G,max=1G"],
        ["--memory", "1G,max=1025M"],
    ] {
        assert!(parse(&wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(args.serial, Some(ConsoleOption::File("log".into())));
    assert_eq!(args.console, ConsoleOption::Socket("con".into()));
    assert_eq!(args.gdb, Some(GdbOption::Tcp(([127, 0, 0, 1], 1234).into())));
    assert!(args.gdb_wait);
    let path = parse(&["--gdb", "run/gdb"]).unwrap();
    assert_eq!(path.gdb, Some(GdbOption::Socket("run/gdb".into())));
    assert!(parse(&["--gdb-wait"]).is_err(), "nobody could come");
}

#[test]
fn bad_values_are_refused() {
    for words in [
        ["--cpus", "0"],
        ["--cpus", "1000"],
        ["--cpus", "two"],
        ["--memory", "0"],
        ["--memory", "lots"],
        ["--disk", ",readonly"],
        ["--disk", "a,format=qcow3"],
        ["--disk", "a,speed=9"],
        ["--disk", "a,bus=scsi"],
        ["--net", "bridge=br0"],
        ["--net", "switch="],
        ["--net", "switch=a b"],
        ["--net", "switch=lan,vlan=0"],
        ["--net", "switch=lan,vlan=4095"],
        ["--net", "switch=lan,speed=9"],
        ["--net", "switch=lan,mac=x"],
        ["--net", "direct="],
        ["--net", "direct=eth0,mode=both"],
        ["--net", "direct=eth0,queues=2"],
        ["--net", "vhost-user="],
        ["--net", "vhost-user=/s,mode=both"],
        ["--net", "vhost-user=/s,queues=2"],
        ["--net", "tap="],
        ["--net", "tap=t,model=ne2000"],
        ["--net", "model=e1000e"],
        ["--net", "username"],
        ["--net", "user,"],
        ["--net", "tap=sixteen-letters!"],
        ["--net", "tap=../x"],
        ["--net", "tap=t,offload=maybe"],
        ["--net", "tap=t,vhost=on"],
        ["--net", "tap=t,mac=ff:ff:ff:ff:ff:ff"],
        ["--serial", "tcp=1"],
        ["--serial", "file="],
        ["--accel", "turbo"],
        ["--gdb", ""],
        ["--gdb", "tcp:1234"],
        ["--gdb", "tcp:0.0.0.0:1234"],
        ["--gdb", "tcp:localhost:1234"],
        ["--name", "a/b"],
        ["--vm-generation-id", "new"],
        ["--vsock", ""],
        ["--vsock", "cid=3"],
        ["--vsock", "cid=3,socket="],
        ["--vsock", "cid=2,socket=a"],
        ["--vsock", "cid=4294967295,socket=a"],
        ["--vsock", "cid=x,socket=a"],
        ["--vsock", "socket=a"],
        ["--fs", "tag=a"],
        ["--fs", "tag=,dir=/"],
        ["--fs", "tag=a,dir="],
        ["--fs", "tag=a,disk=/"],
        ["--fs", "tag=a,readonly=on"],
        ["--fs", "tag=a,readonly=yes,dir=/"],
        ["--fs", "dir=/,tag=a"],
        ["--fs", "tag=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,dir=/"],
        ["--watchdog", ""],
        ["--watchdog", "reset"],
        ["--watchdog", "action=bark"],
        ["--balloon", ""],
        ["--balloon", "big"],
        ["--balloon", "off,deflate-on-oom=on"],
        ["--balloon", "on,deflate-on-oom"],
        ["--balloon", "on,free-page-reporting=maybe"],
        ["--balloon", "on,air=hot"],
    ] {
        assert!(parse(&words).is_err(), "{words:?}");
    }
}

proptest! {
    #[test]
    fn any_value_is_understood_or_refused(text in "[a-z=,./0-9:\\\\ ]{0,30}") {
        let _ = (parse_card(&text), parse_console(&text), parse_cpus(&text), parse_memory(&text), parse_vsock(&text));
        if let Ok(disk) = parse_disk(&text) {
            prop_assert!(text.starts_with(disk.path.to_str().unwrap()));
        }
    }
}

#[test]
fn devices_have_places_on_pci() {
    let args = parse(&[
        "--disk",
        "a,b.img,readonly,addr=01:00.0",
        "--disk",
        "c.img",
        "--net",
        "user,addr=00:03.0,model=e1000e",
        "--root-port",
        "00:02.0",
        "--root-port",
        "00:02.1,bus=1f",
    ])
    .unwrap();
    let place = |text: &str| Some(text.parse().unwrap());
    assert_eq!(args.disks[0].path, PathBuf::from("a,b.img"));
    assert_eq!(
        (args.disks[0].place, args.disks[1].place),
        (place("01:00.0"), None)
    );
    assert_eq!(args.nets[0].place, place("00:03.0"));
    let ports: Vec<_> = args
        .root_ports
        .iter()
        .map(|port| (Some(port.place), port.bus))
        .collect();
    assert_eq!(ports, [(place("00:02.0"), None), (place("00:02.1"), Some(0x1f))]);
    for bad in [
        ["--disk", "a.img,addr=1"],
        ["--disk", "a.img,bus=sata,addr=00:03.0"],
        ["--net", "user,addr=00:20.0"],
        ["--root-port", "01:00.0"],
        ["--root-port", "00:02.0,bus=00"],
        ["--root-port", "00:02.0,bus=+1"],
        ["--root-port", "00:02.0,bus=100"],
    ] {
        assert!(parse(&bad).is_err(), "{bad:?}");
    }
}
