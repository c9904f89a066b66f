//! What `top --json` shows of guests that are busy, paused and asleep.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const OSTLER: &str = env!("CARGO_BIN_EXE_ostler");
/// How long anything may take; generous, because the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);
/// Where the kernel is loaded.
const BASE: u32 = 0x10_0000;
/// jmp to itself.
const SPIN: &[u8] = &[0xeb, 0xfe];
/// cli; again: hlt; jmp again
const SLEEP: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];

/// A Multiboot kernel that says `up` and then does `code` for ever.
fn kernel(code: &[u8]) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const ADDRESSES_VALID: u32 = 1 << 16;
    let header = [
        MAGIC,
        ADDRESSES_VALID,
        0u32.wrapping_sub(MAGIC + ADDRESSES_VALID),
        BASE,
        BASE,
        0,
        0,
        BASE + 32,
    ];
    let mut file: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    for byte in *b"up\n" {
        // mov dx, 0x3f8; mov al, byte; out dx, al
        file.extend([0x66, 0xba, 0xf8, 0x03, 0xb0, byte, 0xee]);
    }
    file.extend(code);
    file
}

/// A guest with a control socket.
struct Guest {
    child: Child,
    control: PathBuf,
    _folder: tempfile::TempDir,
}

impl Guest {
    /// Starts one and waits until it says that it is up.
    fn start(accelerator: &str, code: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        fs::write(&path, kernel(code)).unwrap();
        let control = folder.path().join("control");
        let mut child = Command::new(OSTLER)
            .args(["run", "--memory", "16M", "--accel", accelerator, "--kernel"])
            .arg(&path)
            .arg("--control")
            .arg(&control)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(&said, b"up\n");
        Self {
            child,
            control,
            _folder: folder,
        }
    }

    /// What `ostler top --json` shows.
    fn look(&self) -> Value {
        self.look_with(&[])
    }

    /// The same with further options.
    fn look_with(&self, options: &[&str]) -> Value {
        let output = Command::new(OSTLER)
            .args(["top", "--json"])
            .args(options)
            .arg(&self.control)
            .output()
            .unwrap();
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Looks until `good` holds.
    fn look_until(&self, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let seen = self.look();
            if good(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "waiting for {what}: {seen:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Executes `commands` at the control socket, one after the other.
fn control(path: &Path, commands: &[&str]) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut answers = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    for command in ["qmp_capabilities"].iter().chain(commands) {
        writeln!(stream, "{{\"execute\":\"{command}\"}}").unwrap();
        let answer = answers.find(|text| text.get("return").is_some() || text.get("error").is_some());
        assert!(answer.unwrap().get("return").is_some(), "{command}");
    }
}

fn count(look: &Value, pointer: &str) -> u64 {
    let found = look.pointer(&format!("/vcpus/0/{pointer}"));
    found
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no {pointer} in {look:#}"))
}

#[test]
fn the_counters_of_a_busy_guest_move() {
    let guest = Guest::start("soft", SPIN);
    let first = guest.look_until("guest time", |look| look["vcpus"][0]["time-ns"]["guest"].is_u64());
    guest.look_until("more of it", |look| {
        count(look, "time-ns/guest") > count(&first, "time-ns/guest")
            && count(look, "instructions") > count(&first, "instructions")
    });
}

#[test]
fn a_busy_loop_is_the_hottest_address() {
    let guest = Guest::start("soft", SPIN);
    let spot = &guest.look_with(&["--hot", "5"])["hot"]["addresses"][0];
    let code = kernel(&[]).len() as u32;
    assert_eq!(spot["address"], format!("{:#x}", BASE + code));
    assert_eq!(spot["privilege"], "kernel");
    assert_eq!(spot["symbol"], Value::Null);
    assert!(spot["share"].as_f64() > Some(0.9), "{spot}");
    assert!(spot["samples"].as_u64() > Some(0), "{spot}");
}

#[test]
fn only_who_looks_for_hot_addresses_has_them_sampled() {
    let guest = Guest::start("soft", SPIN);
    let plain = guest.look();
    assert_eq!(plain.get("hot"), None);
    let threads = || -> Vec<String> {
        let folder = format!("/proc/{}/task", plain["vcpus"][0]["thread-id"]);
        let names = fs::read_dir(folder)
            .unwrap()
            .filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).ok());
        names.map(|name| name.trim().to_owned()).collect()
    };
    let samples = || threads().iter().any(|name| name == "sampler");
    assert!(threads().iter().any(|name| name == "vcpu0") && !samples());
    guest.look_with(&["--hot", "1"]);
    assert!(samples());
    let deadline = Instant::now() + LIMIT;
    while samples() {
        assert!(Instant::now() < deadline, "it goes on for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
    // And again.
    assert!(guest.look_with(&["--hot", "1"])["hot"]["samples"].as_u64() > Some(0));
}

#[test]
fn a_sleeping_cpu_is_not_woken_up_to_be_sampled() {
    let guest = Guest::start("soft", SLEEP);
    let halts = |look: &Value| count(look, "exits/halt");
    let asleep = guest.look_until("a sleep", |look| halts(look) > 0);
    let look = guest.look_with(&["--hot", "5"]);
    assert_eq!(look["hot"]["samples"], 0, "{look:#}");
    assert_eq!(halts(&look), halts(&asleep));
}

#[test]
fn a_pause_is_no_time_in_user_mode() {
    const PAUSE: Duration = Duration::from_secs(1);
    let guest = Guest::start("soft", SPIN);
    let user = |look: &Value| count(look, "time-ns/user");
    guest.look_until("user time", |look| look["vcpus"][0]["time-ns"]["user"].is_u64());
    control(&guest.control, &["stop"]);
    let before = guest.look();
    assert_eq!(before["state"], "paused");
    std::thread::sleep(PAUSE);
    let paused = guest.look();
    assert_eq!(user(&paused), user(&before));
    assert_eq!(count(&paused, "time-ns/guest"), count(&before, "time-ns/guest"));
    control(&guest.control, &["cont"]);
    let on = guest.look_until("it to go on", |look| {
        count(look, "instructions") > count(&before, "instructions")
    });
    // It leaves for no device: its user time is that of the pause if anything is.
    let more = user(&on) - user(&before);
    assert!(u128::from(more) < PAUSE.as_nanos(), "{more} ns");
}

#[test]
fn what_kvm_counts_is_shown_and_what_it_cannot_is_null() {
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        eprintln!(
            "SKIPPED what_kvm_counts_is_shown_and_what_it_cannot_is_null: /dev/kvm does not open: {error}"
        );
        return;
    }
    let guest = Guest::start("kvm", SLEEP);
    // The kernel counts these two; they are fetched when someone looks.
    let look = guest.look_until("a halt", |look| {
        look["vcpus"][0]["exits"]["halt"].as_u64() > Some(0)
    });
    assert_eq!(look["accelerator"], "kvm");
    assert!(count(&look, "exits/port-write") >= 3, "{look:#}");
    count(&look, "exits/interrupt");
    count(&look, "time-ns/guest");
    count(&look, "time-ns/kernel");
    count(&look, "kicks/control");
    for unknown in [
        "exits/doorbell",
        "kicks/timer",
        "kicks/device",
        "kicks/ipi",
        "instructions",
        "software/translation-ns",
        "software/tlb-misses",
    ] {
        let value = look.pointer(&format!("/vcpus/0/{unknown}"));
        assert_eq!(value, Some(&Value::Null), "{unknown} in {look:#}");
    }
    assert_eq!(guest.look_with(&["--hot", "5"]).get("hot"), Some(&Value::Null));
    control(&guest.control, &["stop"]);
    let paused = guest.look();
    assert!(
        count(&paused, "exits/kick") >= 1 && count(&paused, "kicks/control") >= 1,
        "{paused:#}"
    );
}

#[test]
fn a_sleeping_guest_is_idle_while_it_sleeps() {
    let guest = Guest::start("soft", SLEEP);
    let idle = |look: &Value| count(look, "time-ns/idle");
    let begun = Instant::now();
    let first = guest.look_until("a sleep", |look| look["vcpus"][0]["time-ns"]["idle"].is_u64());
    let second = guest.look_until("more of it", |look| idle(look) > idle(&first));
    let passed = begun.elapsed().as_nanos();
    assert!(
        u128::from(idle(&second) - idle(&first)) <= passed,
        "more than all the time"
    );
    assert_eq!(
        count(&second, "exits/halt"),
        count(&first, "exits/halt"),
        "it is one sleep"
    );
}
