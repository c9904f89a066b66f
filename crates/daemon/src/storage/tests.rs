use super::*;
use proptest::prelude::*;
use std::os::unix::fs::symlink;

struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A daemon's pools; as often as it starts.
    fn open(&self) -> Arc<Pools> {
        Pools::open(&Places {
            definitions: &self.path("pools"),
            running: &self.path("run"),
            images: &self.path("images"),
        })
        .unwrap()
    }

    fn reboot(&self) {
        fs::remove_dir_all(self.path("run")).unwrap();
    }
}

fn volume_xml(name: &str) -> String {
    format!("<volume><name>{name}</name><capacity>4096</capacity><allocation>0</allocation></volume>")
}

#[test]
fn the_default_pool_is_there_until_it_is_undefined() {
    let host = Host::new();
    let pools = host.open();
    let pool = pools.by_name("default").unwrap();
    assert!(pool.active().is_ok() && pool.state().autostart);
    assert!(host.path("images").is_dir());
    host.reboot();
    let pools = host.open();
    let pool = pools.by_name("default").unwrap();
    assert!(pool.active().is_ok(), "it starts with the host");
    pools.stop(&pool).unwrap();
    let pools = host.open();
    let pool = pools.by_name("default").unwrap();
    assert!(
        pool.active().is_err(),
        "a daemon that starts again starts no pool"
    );
    pools.undefine(&pool).unwrap();
    assert!(host.open().by_name("default").is_err());
}

#[test]
fn a_pool_that_is_there_while_it_runs_outlives_the_daemon() {
    let host = Host::new();
    let pools = host.open();
    let target = host.path("t");
    let xml = format!(
        "<pool type='dir'><name>t</name><target><path>{}</path></target></pool>",
        target.display()
    );
    assert_eq!(
        pools.create(&xml, None).unwrap_err().code,
        Code::System,
        "no folder"
    );
    assert!(pools.by_name("t").is_err());
    let wire = pools.create(&xml, Some(0)).unwrap();
    let again = host.open();
    let pool = again.get(&wire).unwrap();
    assert!(pool.active().is_ok() && pool.state().persistent.is_none());
    again.stop(&pool).unwrap();
    assert!(again.get(&wire).is_err());
    assert!(host.open().get(&wire).is_err());
}

#[test]
fn no_two_pools_have_the_same_folder() {
    let host = Host::new();
    let pools = host.open();
    for path in ["images", "./images//", "images/."] {
        let path = host.folder.path().to_str().unwrap().to_owned() + "/" + path;
        let xml = format!("<pool type='dir'><name>b</name><target><path>{path}</path></target></pool>");
        let said = pools.define(&xml).unwrap_err().to_string();
        assert!(
            said.contains("Storage source conflict with pool: 'default'"),
            "{said}"
        );
    }
    for (xml, says) in [
        (
            "<pool type='logical'><name>vg</name></pool>",
            "'logical' are not served",
        ),
        ("<pool type='netfs'><name>n</name></pool>", "netfs"),
        (
            "<pool type='dir'><name>a</name><target><path>/a/../b</path></target></pool>",
            "'..'",
        ),
    ] {
        let said = pools.define(xml).unwrap_err().to_string();
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn nothing_leads_out_of_a_pool() {
    let host = Host::new();
    let pools = host.open();
    let pool = pools.by_name("default").unwrap();
    let images = host.path("images");
    fs::write(host.path("outside"), "secret").unwrap();
    symlink(host.path("outside"), images.join("link")).unwrap();
    symlink("target", images.join("inner")).unwrap();
    symlink(host.folder.path(), images.join("folder-link")).unwrap();
    fs::create_dir(images.join("folder")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        images.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    pools.create_volume(&pool, &volume_xml("target")).unwrap();
    let names: Vec<_> = pools
        .volumes(&pool)
        .unwrap()
        .into_iter()
        .map(|volume| volume.name)
        .collect();
    assert_eq!(names, ["target"]);
    let volume = |name: &str| StorageVolume {
        pool: "default".into(),
        name: name.into(),
        key: String::new(),
    };
    for name in [
        "link",
        "inner",
        "folder",
        "folder-link",
        "fifo",
        "../outside",
        "..",
        ".",
        "",
        "/etc/passwd",
        "folder-link/outside",
    ] {
        assert_eq!(
            pools.volume(&pool, name).unwrap_err().code,
            Code::NoStorageVolume,
            "{name}"
        );
        assert!(pools.volume_path("default", name).is_err(), "{name}");
        assert!(pools.delete_volume(&volume(name)).is_err(), "{name}");
        assert!(pools.wipe_volume(&volume(name)).is_err(), "{name}");
        assert!(
            pools
                .copy_volume(&pool, &volume_xml("copy"), &volume(name), false)
                .is_err(),
            "{name}"
        );
        assert!(
            pools
                .volume_at(&images.join(name).to_string_lossy(), "path")
                .is_err(),
            "{name}"
        );
    }
    for name in ["link", "folder", "fifo"] {
        let said = pools.create_volume(&pool, &volume_xml(name)).unwrap_err();
        assert_eq!(said.code, Code::StorageVolumeExists, "{name}");
    }
    assert_eq!(fs::read_to_string(host.path("outside")).unwrap(), "secret");
    assert!(
        pools
            .volume_at(&format!("{}/./target", images.display()), "path")
            .is_ok()
    );
}

/// What whoever starts a guest asks for `<disk type='volume'><source pool='default' volume='v'/>`.
#[test]
fn a_disk_by_pool_and_volume_has_a_path() {
    let host = Host::new();
    let pools = host.open();
    let pool = pools.by_name("default").unwrap();
    pools.create_volume(&pool, &volume_xml("v")).unwrap();
    assert_eq!(pools.volume_path("default", "v").unwrap(), host.path("images/v"));
    let code = |result: Result<PathBuf, RemoteError>| result.unwrap_err().code;
    assert_eq!(code(pools.volume_path("other", "v")), Code::NoStoragePool);
    assert_eq!(code(pools.volume_path("default", "w")), Code::NoStorageVolume);
    std::fs::write(host.path("images/q"), b"QFI\xfb\0\0\0\x03").unwrap();
    let padded = std::fs::OpenOptions::new()
        .write(true)
        .open(host.path("images/q"));
    padded.unwrap().set_len(4096).unwrap();
    assert_eq!(code(pools.volume_path("default", "q")), Code::ConfigUnsupported);
    pools.stop(&pool).unwrap();
    assert_eq!(code(pools.volume_path("default", "v")), Code::OperationInvalid);
}

#[test]
fn a_pool_may_be_called_like_a_hidden_file() {
    let host = Host::new();
    let pools = host.open();
    let path = host.path("hidden");
    for name in [".hidden", ".new-b", "b.new"] {
        let xml = format!(
            "<pool type='dir'><name>{name}</name><target><path>{}/{name}</path></target></pool>",
            path.display()
        );
        pools.define(&xml).unwrap();
    }
    drop(pools);
    let pools = host.open();
    for name in [".hidden", ".new-b", "b.new"] {
        pools.by_name(name).unwrap();
    }
}

#[test]
fn what_a_killed_daemon_was_about_to_make_is_not_there() {
    let host = Host::new();
    let pools = host.open();
    let pool = pools.by_name("default").unwrap();
    let left = host.path("images/.ostler-new-0a1b");
    fs::write(&left, "half").unwrap();
    assert!(pools.volumes(&pool).unwrap().is_empty());
    // One that somebody is at stays.
    let folder = Folder::open(host.path("images").to_str().unwrap()).unwrap();
    let at_work = folder.unfinished("w").unwrap();
    pools.stop(&pool).unwrap();
    pools.start(&pool).unwrap();
    assert!(!left.exists());
    at_work.finish("w").unwrap();
    assert_eq!(pools.volumes(&pool).unwrap().len(), 1);
    // Nobody's volume is taken away by the name of a new one.
    let late = folder.unfinished("late").unwrap();
    fs::write(host.path("images/late"), "first").unwrap();
    assert_eq!(late.finish("late").unwrap_err().code, Code::StorageVolumeExists);
    assert_eq!(fs::read_to_string(host.path("images/late")).unwrap(), "first");
}

#[test]
fn a_disk_that_a_guest_has_is_left_alone() {
    let host = Host::new();
    let pools = host.open();
    let pool = pools.by_name("default").unwrap();
    let volume = pools.create_volume(&pool, &volume_xml("v")).unwrap();
    let guests = ostler_disk::open::open(&host.path("images/v"), Default::default()).unwrap();
    let busy = |result: Result<(), RemoteError>| assert_eq!(result.unwrap_err().code, Code::ResourceBusy);
    let bigger = Resize {
        capacity: 8192,
        delta: false,
        shrink: false,
        allocate: true,
    };
    busy(pools.delete_volume(&volume));
    busy(pools.wipe_volume(&volume));
    busy(pools.resize_volume(&volume, bigger));
    busy(
        pools
            .copy_volume(&pool, &volume_xml("c"), &volume, false)
            .map(drop),
    );
    drop(guests);
    pools.resize_volume(&volume, bigger).unwrap();
    let state = pools.look(&volume).unwrap();
    assert_eq!((state.capacity, state.allocation >= 4096), (8192, true));
    pools.delete_volume(&volume).unwrap();
}

proptest! {
    #[test]
    fn any_path_is_a_folder_and_a_name_or_nothing(path in "[/.a]{0,12}") {
        if let Some((parent, name)) = split(&path) {
            prop_assert!(!name.contains('/') && !matches!(name.as_str(), "" | "." | ".."));
            prop_assert_eq!(clean(&parent), parent.clone());
            prop_assert!(!parent.contains("//") && parent.split('/').all(|part| part != ".."));
        }
    }

    #[test]
    fn any_text_is_a_pool_or_an_error(text in any::<String>()) {
        let _ = read(&text);
        let _ = read(&format!("<pool type='dir'><name>{text}</name><target><path>/{text}</path></target></pool>"));
    }
}
