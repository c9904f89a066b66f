//! An ordinary user, who may open neither /dev/kvm nor other people's files.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::tiny::{Kernel, OSTLER};

/// The user and group that own nothing.
const NOBODY: &str = "65534";

/// `ostler` as an ordinary user in `folder`, which that user may read; says why where that cannot be.
fn ostler(folder: &Path) -> Result<Command, &'static str> {
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    let mut command = if rustix::process::geteuid().is_root() {
        // Where it was built, others may not look.
        let copy = folder.join("ostler");
        if !copy.exists() {
            fs::copy(OSTLER, &copy).unwrap();
        }
        if Command::new("setpriv").arg("--version").output().is_err() {
            return Err("no setpriv on this machine");
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        command.arg(copy);
        command
    } else {
        Command::new(OSTLER)
    };
    command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

/// The same where, in addition, there is a /dev/kvm that this user may not open.
fn without_kvm(folder: &Path) -> Result<Command, &'static str> {
    let meta = fs::metadata("/dev/kvm").map_err(|_| "this machine has no /dev/kvm")?;
    let refused = if rustix::process::geteuid().is_root() {
        meta.permissions().mode() & 0o006 != 0o006
    } else {
        File::options().read(true).write(true).open("/dev/kvm").is_err()
    };
    if !refused {
        return Err("everyone may open this machine's /dev/kvm");
    }
    ostler(folder)
}

#[test]
fn a_permission_problem_is_never_silently_slow() {
    let folder = tempfile::tempdir().unwrap();
    Kernel::new().print("slow\n").power_off().write(folder.path());
    let mut command = match without_kvm(folder.path()) {
        Ok(command) => command,
        Err(why) => {
            eprintln!("SKIPPED a_permission_problem_is_never_silently_slow: {why}");
            return;
        }
    };
    let args = ["run", "--memory", "16M", "--kernel", "kernel", "--accel", "auto"];
    let ended = command.args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(0), "{errors}");
    assert_eq!(ended.stdout, b"slow\n", "{errors}");
    assert!(errors.contains("the software CPU runs the guest"), "{errors}");
    assert!(errors.contains("sudo usermod -aG kvm $USER"), "{errors}");
}

#[test]
fn kvm_that_may_not_be_opened_is_bad_input_where_it_is_insisted_on() {
    let folder = tempfile::tempdir().unwrap();
    Kernel::new().power_off().write(folder.path());
    let mut command = match without_kvm(folder.path()) {
        Ok(command) => command,
        Err(why) => {
            eprintln!("SKIPPED kvm_that_may_not_be_opened_is_bad_input_where_it_is_insisted_on: {why}");
            return;
        }
    };
    let args = ["run", "--memory", "16M", "--kernel", "kernel", "--accel", "kvm"];
    let ended = command.args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(2), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.contains("usermod -aG kvm"), "{errors}");
    assert!(ended.stdout.is_empty());
}

#[test]
fn the_doctor_tells_who_may_not_open_the_device() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = match without_kvm(folder.path()) {
        Ok(command) => command,
        Err(why) => {
            eprintln!("SKIPPED the_doctor_tells_who_may_not_open_the_device: {why}");
            return;
        }
    };
    let ended = command.args(["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let device = findings.iter().find(|f| f["name"] == "dev-kvm").unwrap();
    assert_eq!(device["verdict"], "bad", "{device}");
    assert_eq!(device["remedy"]["command"], "sudo usermod -aG kvm $USER");
    assert_eq!(report["auto"]["accelerator"], "soft");
}

#[test]
fn a_kernel_that_may_not_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = Kernel::new().power_off().write(folder.path());
    fs::set_permissions(&kernel, Permissions::from_mode(0o000)).unwrap();
    let mut command = match ostler(folder.path()) {
        Ok(command) => command,
        Err(why) => {
            eprintln!("SKIPPED a_kernel_that_may_not_be_read: {why}");
            return;
        }
    };
    let args = ["run", "--memory", "16M", "--kernel", "kernel", "--accel", "soft"];
    let ended = command.args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(2), "{errors}");
    assert_eq!(
        errors,
        "ostler: cannot read the kernel \"kernel\": you have no permission\n"
    );
    assert!(ended.stdout.is_empty());
}
