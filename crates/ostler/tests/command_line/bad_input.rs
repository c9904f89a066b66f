//! Every kind of bad input: one clear line, status 2, nothing left behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::tiny::{Kernel, OSTLER, Tiny};

/// Runs `ostler run` with `args` in `folder`, which has a good kernel in it, and asserts how it is refused.
#[track_caller]
fn assert_refused(folder: &Path, args: &[&str], says: &str) {
    let before = listing(folder);
    let output = Command::new(OSTLER)
        .arg("run")
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
    assert_eq!(errors.lines().count(), 1, "{args:?}: {errors}");
    assert!(
        errors.starts_with("ostler: ") && errors.contains(says),
        "{args:?}: {errors}"
    );
    assert!(output.stdout.is_empty());
    assert_eq!(listing(folder), before, "{args:?} left something behind");
}

fn listing(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn folder_with_kernel() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    Kernel::new()
        .print("up\n")
        .wait_for_button()
        .power_off()
        .write(folder.path());
    folder
}

#[test]
fn kernels_that_are_none() {
    let folder = folder_with_kernel();
    let at = folder.path();
    assert_refused(at, &[], "--kernel");
    assert_refused(at, &["--kernel", "missing"], "missing");
    assert_refused(at, &["--kernel", "."], "no file");
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("text", b"not a kernel\n"),
        ("zeroes", &[0; 70_000]),
    ] {
        fs::write(at.join(name), bytes).unwrap();
        let args = [
            "--accel",
            "soft",
            "--serial",
            "file=log",
            "--control",
            "ctl",
            "--kernel",
            name,
        ];
        assert_refused(at, &args, "kernel");
    }
}

#[test]
fn an_initrd_larger_than_memory() {
    let folder = folder_with_kernel();
    // The smaller one would fit if there were no kernel.
    for mebibytes in [20, 15] {
        fs::File::create(folder.path().join("initrd"))
            .unwrap()
            .set_len(mebibytes << 20)
            .unwrap();
        let args = [
            "--accel",
            "soft",
            "--kernel",
            "kernel",
            "--initrd",
            "initrd",
            "--memory",
            "16M",
            "--serial",
            "file=log",
            "--control",
            "ctl",
        ];
        assert_refused(folder.path(), &args, "does not fit into");
    }
    assert_refused(
        folder.path(),
        &["--kernel", "kernel", "--initrd", "none"],
        "no such file",
    );
}

#[test]
fn numbers_out_of_range() {
    let folder = folder_with_kernel();
    for cpus in ["0", "241", "254", "1000", "-1", "many"] {
        assert_refused(folder.path(), &["--kernel", "kernel", "--cpus", cpus], "CPU");
    }
    for memory in ["0", "1K", "12Q"] {
        assert_refused(
            folder.path(),
            &["--kernel", "kernel", "--memory", memory],
            "--memory",
        );
    }
    assert_refused(
        folder.path(),
        &["--kernel", "kernel", "--memory", "16000G"],
        "this host has",
    );
}

#[test]
fn names_that_no_one_has() {
    let folder = folder_with_kernel();
    let args = [
        "--kernel",
        "kernel",
        "--accel",
        "soft",
        "--cpu",
        "i80186",
        "--control",
        "ctl",
    ];
    assert_refused(folder.path(), &args, "i80186");
    assert_refused(
        folder.path(),
        &["--kernel", "kernel", "--net", "socket=nowhere"],
        "nowhere",
    );
    assert_refused(
        folder.path(),
        &["--kernel", "kernel", "--disk", "nowhere.img"],
        "nowhere.img",
    );
    assert_refused(
        folder.path(),
        &["--kernel", "kernel", "--disk", "a,format=vhdx"],
        "vhdx",
    );
    assert_refused(
        folder.path(),
        &["--kernel", "kernel", "--control", "no/where"],
        "no/where",
    );
    assert_refused(
        folder.path(),
        &["--kernel", "kernel", "--frobnicate"],
        "--frobnicate",
    );
}

#[test]
fn a_tap_that_does_not_exist() {
    let tun = fs::File::options().read(true).write(true).open("/dev/net/tun");
    if let Err(error) = tun {
        eprintln!("SKIPPED a_tap_that_does_not_exist: /dev/net/tun does not open: {error}");
        return;
    }
    let folder = folder_with_kernel();
    let interface = Path::new("/sys/class/net/no-such-tap");
    assert!(!interface.exists());
    assert_refused(
        folder.path(),
        &["--kernel", "kernel", "--net", "tap=no-such-tap"],
        "the tap \"no-such-tap\" does not exist; make it with: ip tuntap add no-such-tap mode tap",
    );
    assert!(!interface.exists(), "an interface was made");
}

#[test]
fn two_consoles_for_one_terminal() {
    let folder = folder_with_kernel();
    let args = ["--kernel", "kernel", "--serial", "stdio", "--console", "stdio"];
    assert_refused(folder.path(), &args, "cannot both have the terminal");
}

#[test]
fn a_disk_that_another_guest_uses() {
    let mut first = Tiny::new(Kernel::new().print("up\n").wait_for_button().power_off());
    let disk = first.path_option("--disk", "", "disk.img");
    fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let mut first = first.spawn();
    first.expect("up\n");
    let args = [
        "--kernel",
        "kernel",
        "--accel",
        "soft",
        "--disk",
        disk.to_str().unwrap(),
    ];
    assert_refused(
        first.folder.path(),
        &args,
        "disk.img is in use by another guest; stop that guest",
    );
    first.signal(rustix::process::Signal::TERM);
    assert!(first.wait().status.success());
}

#[test]
fn a_control_socket_that_another_guest_listens_at() {
    let mut first = Tiny::new(Kernel::new().print("up\n").wait_for_button().power_off());
    let control = first.path_option("--control", "", "control");
    let mut first = first.spawn();
    first.expect("up\n");
    let args = [
        "--kernel",
        "kernel",
        "--accel",
        "soft",
        "--control",
        control.to_str().unwrap(),
    ];
    assert_refused(first.folder.path(), &args, "in use");
    first.signal(rustix::process::Signal::TERM);
    assert!(first.wait().status.success());
    assert!(!control.exists(), "the control socket goes with its guest");
}

#[test]
fn firmware_that_cannot_be() {
    let folder = folder_with_kernel();
    let at = folder.path();
    fs::write(at.join("small"), [0; 4096]).unwrap();
    fs::write(at.join("rom"), vec![0; 65_536]).unwrap();
    // The signature of a UEFI image, without a template of its variables.
    let mut image = vec![0; 65_536];
    image[0x28..0x2c].copy_from_slice(b"_FVH");
    fs::write(at.join("volume"), image).unwrap();
    fs::write(at.join("short"), [0; 100]).unwrap();
    assert_refused(at, &["--firmware", ""], "bios, uefi or a file");
    assert_refused(at, &["--firmware", "missing"], "missing");
    assert_refused(at, &["--firmware", "small"], "the firmware has 4096 bytes");
    assert_refused(at, &["--firmware", "rom", "--nvram", "new"], "no UEFI image");
    assert_refused(at, &["--firmware", "volume", "--nvram", "new"], "no template");
    assert_refused(
        at,
        &["--firmware", "volume", "--nvram", "short"],
        "the variable store has 100 bytes",
    );
    assert_refused(at, &["--firmware", "rom", "--boot-menu", "0"], "--boot-menu");
    let terminal = ["--firmware", "rom", "--debug-console", "stdio"];
    assert_refused(at, &terminal, "cannot both have the terminal");
    for with_kernel in [
        ["--firmware", "rom"],
        ["--nvram", "new"],
        ["--debug-console", "file=log"],
    ] {
        let args = [&["--kernel", "kernel"][..], &with_kernel].concat();
        assert_refused(at, &args, "--");
    }
    assert_refused(at, &["--firmware", "rom", "--append", "quiet"], "--append");
}
