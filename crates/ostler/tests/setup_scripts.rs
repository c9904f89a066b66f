//! What `./quickstart` and `./test` say on machines that lack something, and how they judge a guest.
//!
//! The scripts run with commands of the test's own in their PATH: nothing is installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An ordinary user: nobody.
const NOBODY: &str = "65534";
/// What the library itself calls.
const TOOLS: &[&str] = &[
    "awk", "basename", "bash", "cat", "date", "grep", "head", "id", "sed", "sort", "tr",
];

/// A machine whose commands are chosen one by one.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// With an apt-get that writes down how it was called, and with `tools`.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let machine = Self { folder };
        fs::create_dir(machine.path("bin")).unwrap();
        let library = repository().join("tools/sh/lib.sh");
        fs::copy(library, machine.path("lib.sh")).unwrap();
        for tool in TOOLS {
            let found = Command::new("sh")
                .args(["-c", &format!("command -v {tool}")])
                .output()
                .unwrap();
            let found = String::from_utf8(found.stdout).unwrap();
            std::os::unix::fs::symlink(found.trim(), machine.path("bin").join(tool)).unwrap();
        }
        let log = machine.path("apt-get.log");
        fs::write(&log, "").unwrap();
        fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).unwrap();
        machine.command(
            "apt-get",
            &format!(
                "echo \"$*\" >>'{}'\necho 'Need to get 12.3 MB of archives.'\n\
                 echo 'After this operation, 45.6 MB of additional disk space will be used.'\nexit 1",
                log.display()
            ),
        );
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds a command: a script of its own.
    fn command(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A toolchain of rustup's: `version`, and cargo with these subcommands.
    fn rustup(&self, version: &str, subcommands: &str) {
        self.command(
            "rustc",
            &format!(
                "case $1 in --print) echo /home/someone/.rustup/toolchains/stable ;; *) echo rustc {version} ;; esac"
            ),
        );
        self.command(
            "cargo",
            &format!("case \" {subcommands} \" in *\" $1 \"*) ;; *) exit 1 ;; esac"),
        );
    }

    /// Runs `script` with the library loaded, as an ordinary user.
    fn run(&self, script: &str) -> Output {
        let script = format!(
            "set -euo pipefail; . '{}'; {script}",
            self.path("lib.sh").display()
        );
        let mut command = Command::new("/usr/bin/env");
        if rustix::process::geteuid().is_root() {
            command = Command::new("/usr/bin/setpriv");
            command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        }
        command
            .args(["bash", "-c", &script, "./quickstart"])
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", self.path("bin"));
        command.output().unwrap()
    }

    /// How apt-get was called so far.
    fn calls_of_apt_get(&self) -> String {
        fs::read_to_string(self.path("apt-get.log")).unwrap()
    }
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Pairs as the scripts have them: the first is there, the others are not.
const PAIRS: &str = "bash:bash rust:rustc-web,cargo-web cargo-fmt:rustfmt-web cargo-clippy:rust-web-clippy \
                     no-such-assembler:assembler /nonexistent/header.h:headers";

#[test]
fn an_ordinary_user_reads_one_sudo_line_with_everything() {
    let machine = Machine::new();
    let ended = machine.run(&format!("need {PAIRS}; echo went on"));
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(
        text(&ended.stderr),
        "quickstart: not root; run this once and call me again:\n    sudo apt-get update && sudo apt-get install -y \
         --no-install-recommends assembler cargo-web headers rust-web-clippy rustc-web rustfmt-web\n"
    );
    let said = text(&ended.stdout);
    assert!(
        said.contains("Need to get 12.3 MB") && said.contains("45.6 MB of additional"),
        "{said}"
    );
    assert!(!said.contains("went on"), "{said}");
    let calls = machine.calls_of_apt_get();
    assert!(
        !calls.is_empty() && calls.lines().all(|call| call.contains("--assume-no")),
        "only asked: {calls}"
    );
}

#[test]
fn a_toolchain_without_its_formatter_is_noticed() {
    let machine = Machine::new();
    machine.command(
        "rustc",
        "case $1 in --print) echo /usr ;; *) echo rustc 1.96.0 ;; esac",
    );
    machine.command("cargo", "[ \"$1\" = clippy ]");
    let ended =
        machine.run("need rust:rustc-web,cargo-web cargo-fmt:rustfmt-web cargo-clippy:rust-web-clippy");
    let said = text(&ended.stderr);
    assert!(said.ends_with("--no-install-recommends rustfmt-web\n"), "{said}");
}

#[test]
fn nothing_is_said_where_nothing_is_missing() {
    let machine = Machine::new();
    machine.rustup("1.96.0", "fmt clippy");
    let ended = machine.run("need bash:bash rust:rustc-web,cargo-web cargo-fmt:rustfmt-web; echo went on");
    assert_eq!(
        (ended.status.code(), text(&ended.stdout).as_str()),
        (Some(0), "went on\n")
    );
    assert_eq!(machine.calls_of_apt_get(), "");
}

#[test]
fn a_toolchain_of_rustup_is_mended_by_rustup() {
    let machine = Machine::new();
    machine.rustup("1.96.0", "");
    let ended =
        machine.run("need rust:rustc-web,cargo-web cargo-fmt:rustfmt-web cargo-clippy:rust-web-clippy");
    let said = text(&ended.stdout);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.ends_with("run this once: rustup component add clippy rustfmt\n"),
        "{said}"
    );
    assert_eq!(machine.calls_of_apt_get(), "");

    let machine = Machine::new();
    machine.rustup("1.80.0", "fmt clippy");
    let ended = machine.run(&format!("need {PAIRS}"));
    let (said, errors) = (text(&ended.stdout), text(&ended.stderr));
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("run this once: rustup default stable && rustup update stable"),
        "{said}"
    );
    assert!(
        errors.ends_with("--no-install-recommends assembler headers\n"),
        "{errors}"
    );
}

#[test]
fn a_check_passes_only_if_the_guest_powered_off() {
    let machine = Machine::new();
    let up = "OSTLER-GUEST-UP linux 6.1 cpus 2 memory 1 kB disk ok, boot 1 of this disk\r\n";
    let down = "[    9.1] reboot: Power down\r\n";
    for (status, log, verdict) in [
        (0, format!("{up}{down}"), ""),
        (
            0,
            format!("{up}[    9.1] reboot: Restarting system\r\n"),
            "did not power off",
        ),
        (0, up.to_owned(), "did not power off"),
        (0, down.to_owned(), "did not come up"),
        (3, format!("{up}{down}"), "status 3"),
        (124, format!("{up}{down}"), "not through after"),
    ] {
        fs::write(machine.path("log"), log).unwrap();
        let ended = machine.run(&format!("check_guest {status} log"));
        let said = text(&ended.stderr);
        assert_eq!(ended.status.success(), verdict.is_empty(), "{said}");
        assert!(said.contains(verdict), "{verdict:?} in {said:?}");
    }
}

#[test]
fn the_seconds_are_said_with_the_guests_line() {
    let machine = Machine::new();
    let ended =
        machine.run("printf 'boot\\nOSTLER-GUEST-UP x\\nend' | watch_guest $(($(date +%s%N) - 7300000000))");
    let said = text(&ended.stdout);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(
        (lines[0], lines[1], lines[3]),
        ("boot", "OSTLER-GUEST-UP x", "end"),
        "{said}"
    );
    let seconds = lines[2].strip_suffix(" seconds after the start").unwrap();
    let seconds: f64 = seconds.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(seconds >= 7.3, "{said}");
}
