//! What `./quickstart` and `./test` say on machines that lack something, and how they judge a guest.
//!
//! The scripts run with commands of the test's own in their PATH: nothing is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// An ordinary user: nobody.
const NOBODY: &str = "65534";
/// What the library itself calls.
const TOOLS: &[&str] = &[
    "awk", "basename", "bash", "cat", "chmod", "date", "dirname", "find", "grep", "head", "id", "ln",
    "mkdir", "readlink", "rm", "sed", "sort", "touch", "tr", "truncate",
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

    /// Adds `./quickstart` and the commands that it needs where nothing is missing. What they do and what they make is written
    /// down in `calls.log`; the guest is a line.
    fn with_quickstart(self) -> Self {
        let library = self.path("tools/sh/lib.sh");
        for folder in ["tools/sh", "tools/guest-image", "target"] {
            fs::create_dir_all(self.path(folder)).unwrap();
        }
        fs::set_permissions(self.path("target"), fs::Permissions::from_mode(0o777)).unwrap();
        fs::copy(repository().join("tools/sh/lib.sh"), library).unwrap();
        fs::copy(repository().join("quickstart"), self.path("quickstart")).unwrap();
        let log = self.path("calls.log");
        fs::write(&log, "").unwrap();
        fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).unwrap();
        let logged = |name: &str, script: &str| {
            let line = format!("echo \"{name} $*\" >>'{}'", log.display());
            self.command(name, &format!("{line}\n{script}"));
        };
        logged("systemctl", "");
        logged("service", "");
        logged("invoke-rc.d", "");
        logged("update-rc.d", "");
        logged("apt-get", "[ $1 = download ] && touch linux.deb busybox.deb");
        logged(
            "dpkg-deb",
            "mkdir -p \"$3/boot\"; touch \"$3/boot/vmlinuz-6.1.0-cloud\"",
        );
        self.command("cc", "");
        self.command("rustc", "echo rustc 1.96.0");
        self.command("uname", "echo x86_64");
        self.command(
            "apt-cache",
            "case $1 in\n\
             depends) echo '  Depends: linux-image-6.1.0-cloud' ;;\n\
             show) printf 'Package: linux-image-6.1.0-cloud\\nSize: 28500000\\n' ;;\n\
             esac",
        );
        let guest = "#!/bin/sh\n[ -t 0 ] && [ -t 1 ] && echo \"the guest has the terminal: $1 $2 $3\"\n";
        logged(
            "cargo",
            &format!(
                "case $1 in\n\
                 build) [ -x target/release/ostler ] && exit; mkdir -p target/release; echo compiled >>'{}'\n\
                 printf '%s' '{guest}' >target/release/ostler; chmod +x target/release/ostler ;;\n\
                 run) touch target/guest/initrd.img ;;\n\
                 esac",
                log.display()
            ),
        );
        self
    }

    /// Calls `./quickstart` at a terminal, and returns what that showed, and which commands were called.
    fn quickstart_at_a_terminal(&self) -> (String, String) {
        let before = fs::read_to_string(self.path("calls.log")).unwrap().len();
        // `script` is in every Debian: it makes the terminal.
        let ended = self
            .as_user()
            .args([
                "/usr/bin/script",
                "--quiet",
                "--return",
                "--command",
                "bash ./quickstart",
                "/dev/null",
            ])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let shown = text(&ended.stdout).replace('\r', "");
        assert!(ended.status.success(), "{shown}{}", text(&ended.stderr));
        let calls = fs::read_to_string(self.path("calls.log")).unwrap()[before..].to_owned();
        (shown.replace("\x1b[1m", "").replace("\x1b[0m", ""), calls)
    }

    /// Runs `script` with the library loaded, as an ordinary user.
    fn run(&self, script: &str) -> Output {
        let script = format!(
            "set -euo pipefail; . '{}'; {script}",
            self.path("lib.sh").display()
        );
        let mut command = self.as_user();
        command.args(["bash", "-c", &script, "./quickstart"]);
        command.output().unwrap()
    }

    /// A command to be completed, which an ordinary user runs on this machine.
    fn as_user(&self) -> Command {
        let mut command = Command::new("/usr/bin/env");
        if rustix::process::geteuid().is_root() {
            command = Command::new("/usr/bin/setpriv");
            command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        }
        command
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", self.path("bin"))
            .arg("--");
        command
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
    let net = "OSTLER-GUEST-NETWORK address 10.0.2.15/24 fetched abc123\r\n";
    let down = "[    9.1] reboot: Power down\r\n";
    let unreached = "did not reach this host";
    for (status, log, verdict) in [
        (0, format!("{up}{net}{down}"), ""),
        (0, format!("{up}{down}"), unreached),
        (0, format!("{up}{}{down}", net.replace("abc123", "")), unreached),
        (
            0,
            format!("{up}{}{down}", net.replace("abc123", "abc1234")),
            unreached,
        ),
        (
            0,
            format!("{up}{}{down}", net.replace("10.0.2.15/24", "")),
            unreached,
        ),
        (
            0,
            format!("{up}{net}[    9.1] reboot: Restarting system\r\n"),
            "did not power off",
        ),
        (0, format!("{up}{net}"), "did not power off"),
        (0, format!("{net}{down}"), "did not come up"),
        (3, format!("{up}{net}{down}"), "status 3"),
        (124, format!("{up}{net}{down}"), "not through after"),
    ] {
        fs::write(machine.path("log"), log).unwrap();
        let ended = machine.run(&format!("check_guest {status} log abc123"));
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

#[test]
fn a_terminal_shows_the_steps_and_what_to_try_next() {
    let machine = Machine::new().with_quickstart();
    let ends = "==> Booting Debian's kernel vmlinuz-6.1.0-cloud; Ctrl-] leaves the console, 'poweroff -f' ends the guest\n\
                the guest has the terminal: run --name quickstart\n\
                ==> Try next: your own kernel and disk, with more CPUs:\n    \
                target/release/ostler run --kernel FILE --initrd FILE --append 'console=ttyS0' --disk FILE --cpus 4 --memory 2G\n    \
                target/release/ostler doctor\n";
    let (shown, calls) = machine.quickstart_at_a_terminal();
    let begins = "==> Building Ostler (release mode; the first build takes a few minutes)\n\
                  ==> Fetching the guest from Debian, unpacked under target/guest and not installed:\n    \
                  linux-image-6.1.0-cloud, 28.5 MB\n\
                  ==> Making the guest's initramfs\n";
    assert_eq!(shown, format!("{begins}{ends}"));
    assert!(
        calls.contains("compiled\n") && calls.contains("apt-get download"),
        "{calls}"
    );

    for service in ["systemctl", "service", "invoke-rc.d", "update-rc.d"] {
        assert!(!calls.lines().any(|call| call.starts_with(service)), "{calls}");
    }

    // The second call boots, and all that it asks is whether the build is up to date.
    let (shown, calls) = machine.quickstart_at_a_terminal();
    assert_eq!(shown, ends);
    let build = "cargo build --release --quiet -p ostler -p ostler-guest-image\n";
    assert_eq!(calls, build);
}

/// The packages that a script names in its calls of `need` and `need_toolchain`, as NAME:PACKAGE,PACKAGE.
fn packages_of(script: &str) -> BTreeSet<String> {
    let joined = script.replace("\\\n", " ");
    let calls = joined
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("need"));
    let pairs = calls.flat_map(str::split_whitespace);
    pairs
        .filter_map(|pair| pair.rsplit_once(':'))
        .flat_map(|(_, packages)| packages.split(','))
        .map(str::to_owned)
        .collect()
}

/// Whether a unit is there and switched off: that of nftables, which Debian does not enable.
fn is_off(package: &str, unit: &str) -> bool {
    let name = unit.rsplit('/').next().unwrap_or_default();
    let folders = fs::read_dir("/etc/systemd/system")
        .into_iter()
        .flatten()
        .flatten();
    let mut wanted = folders.filter(|folder| folder.path().join(name).symlink_metadata().is_ok());
    package == "nftables" && wanted.next().is_none()
}

#[test]
fn no_package_that_the_scripts_install_brings_a_service() {
    const NAME: &str = "no_package_that_the_scripts_install_brings_a_service";
    let format = "${Package}\t${Priority}\t${Provides}\t${Pre-Depends}, ${Depends}\n";
    let Ok(listed) = Command::new("dpkg-query").args(["-W", "-f", format]).output() else {
        eprintln!("SKIPPED {NAME}: this is no Debian");
        return;
    };
    let listed = text(&listed.stdout);
    // Without versions and architectures.
    let name = |one: &str| one.trim().split([' ', ':']).next().unwrap_or_default().to_owned();
    let mut packages = BTreeMap::new();
    let mut providers = BTreeMap::new();
    for line in listed.lines() {
        let [package, priority, provides, needs] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("four fields: {line}");
        };
        packages.insert(package.to_owned(), (priority, needs));
        for provided in provides.split(',') {
            providers.insert(name(provided), package.to_owned());
        }
    }
    // Of alternatives the first that is installed.
    let needed = |needs: &str| -> Vec<String> {
        let groups = needs.split(',');
        let installed = |one: &str| {
            let one = name(one);
            if packages.contains_key(&one) {
                Some(one)
            } else {
                providers.get(&one).cloned()
            }
        };
        groups
            .filter_map(|group| group.split('|').find_map(installed))
            .collect()
    };
    let scripts = ["quickstart", "test", "tools/sh/lib.sh"];
    let read = |script: &str| fs::read_to_string(repository().join(script)).unwrap();
    let mut waiting: Vec<String> = scripts
        .iter()
        .flat_map(|script| packages_of(&read(script)))
        .collect();
    for named in ["gcc", "e2fsprogs", "qemu-system-x86", "iproute2", "cargo-web"] {
        assert!(
            waiting.iter().any(|package| package == named),
            "{named} in {waiting:?}"
        );
    }
    let mut seen = BTreeSet::new();
    while let Some(package) = waiting.pop() {
        if let Some((_, needs)) = packages.get(&package)
            && seen.insert(package)
        {
            waiting.extend(needed(needs));
        }
    }
    // Enough that the way from package to package was gone; every Debian has those of priority "required" already.
    assert!(seen.len() > 20, "{seen:?}");
    for package in seen.iter().filter(|package| packages[*package].0 != "required") {
        let files = Command::new("dpkg-query").args(["-L", package]).output().unwrap();
        for file in text(&files.stdout).lines() {
            let unit = file.contains("/systemd/system/") && !file.ends_with(".d") && !is_off(package, file);
            assert!(
                !unit && !file.starts_with("/etc/init.d/") && !file.starts_with("/etc/cron"),
                "{package} brings {file}"
            );
        }
    }
}
